using System.CommandLine;

namespace Vfio.Cli;

/// <summary>Options that every verb has.</summary>
internal sealed class CommonOptions(CliEnvironment environment)
{
    /// <summary><c>-o json</c>.</summary>
    public Option<OutputFormat> Output { get; } = new("--output", "-o")
    {
        Description = "What is printed: text for people, json for programs",
        HelpName = "text|json",
        Recursive = true,
        DefaultValueFactory = _ => OutputFormat.Text,
        CustomParser = result =>
        {
            switch (result.Tokens[0].Value)
            {
                case "text":
                    return OutputFormat.Text;
                case "json":
                    return OutputFormat.Json;
                default:
                    result.AddError($"--output: \"{result.Tokens[0].Value}\" is neither text nor json");
                    return default;
            }
        },
    };

    /// <summary><c>--socket PATH</c>.</summary>
    public Option<string> Socket { get; } = new("--socket")
    {
        Description = "The daemon's socket (also: the environment variable VFIOPIN_SOCKET)",
        HelpName = "PATH",
        Recursive = true,
        DefaultValueFactory = _ => environment.SocketPath,
    };
}

/// <summary>What is printed.</summary>
internal enum OutputFormat
{
    Text,
    Json,
}
