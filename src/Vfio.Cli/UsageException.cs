namespace Vfio.Cli;

/// <summary>The command line makes no sense, in a way that only the verb can see: exit code 2.</summary>
/// <param name="message">What is wrong and what would be right.</param>
internal sealed class UsageException(string message) : Exception(message);
