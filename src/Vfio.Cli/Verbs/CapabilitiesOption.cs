using System.CommandLine;
using System.CommandLine.Invocation;

namespace Vfio.Cli.Verbs;

/// <summary><c>--print-capabilities</c> of a back-end program (vhost-user specification, "Backend program conventions"): "Output to
/// stdout the backend capabilities in JSON format, and then exit successfully. Other options and arguments should be ignored".</summary>
internal static class CapabilitiesOption
{
    /// <summary>The option of a back-end.</summary>
    /// <param name="type">The type of device, by the specification's name.</param>
    public static Option<bool> For(string type) => new("--print-capabilities")
    {
        Description = "Print what this back-end can do as JSON, and end; nothing else is looked at",
        Action = new Print(type),
    };

    private sealed class Print(string type) : SynchronousCommandLineAction
    {
        public override bool ClearsParseErrors => true;

        public override int Invoke(ParseResult parseResult)
        {
            parseResult.InvocationConfiguration.Output.WriteLine($"{{\"type\": \"{type}\", \"features\": []}}");
            return Vfiopin.Done;
        }
    }
}
