using System.CommandLine;
using System.Text.Json;
using Vfio.Linux;
using Vfio.Service;

namespace Vfio.Cli.Verbs;

/// <summary><c>vfiopin attach POOL -- COMMAND</c>: becomes the command, which inherits the pool's descriptors.</summary>
internal static class AttachVerb
{
    private const string Variable = "VFIOPIN_LAYOUT";

    public static Command Build(VerbBuilder verbs)
    {
        Argument<string> name = PoolVerbs.Name();
        var command = new Argument<string[]>("COMMAND")
        {
            Description = $"The program and its arguments; it finds the layout as JSON in {Variable}",
            Arity = ArgumentArity.OneOrMore,
        };
        return verbs.Verb(
            "attach",
            "Runs a program that uses a pool's memory and devices itself; they are its own until it ends",
            ["vfiopin attach demo -- ./attach hello", "vfiopin attach demo -- sh -c 'echo \"$VFIOPIN_LAYOUT\"'"],
            [name, command],
            run => Run(run, run.Get(name), run.Get(command)));
    }

    private static int Run(Invocation run, string name, string[] command)
    {
        using ControlClient client = ControlClient.Connect(run.SocketPath);
        var context = new OperationContext { Cancellation = run.Cancellation };
        AttachLayout layout = client.Invoke(AttachOperations.Attach, new PoolName(name), context)
            .Renumber(index => context.Answered[index].Number);
        foreach (FileDescriptor descriptor in context.Answered)
        {
            ProcessImage.Inherit(descriptor);
        }

        // The daemon lends the pool as long as this connection is open, which now ends with the command.
        ProcessImage.Inherit(client.Descriptor);
        ProcessImage.Replace(command, Variable, JsonSerializer.Serialize(layout, ServiceJson.Default.AttachLayout));
        return Vfiopin.Failed;
    }
}
