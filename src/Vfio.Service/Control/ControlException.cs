namespace Vfio.Service;

/// <summary>The talk with the daemon broke down: it does not know the method, did not understand, or went away.</summary>
/// <param name="message">What happened.</param>
public sealed class ControlException(string message) : IOException(message);
