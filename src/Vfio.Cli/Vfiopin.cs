using System.CommandLine;
using System.CommandLine.Help;
using Vfio.Cli.Verbs;

namespace Vfio.Cli;

/// <summary>The command <c>vfiopin</c>: its verbs, and what an outcome means for the exit code.</summary>
internal static class Vfiopin
{
    public const int Done = 0;
    public const int Failed = 1;
    public const int Usage = 2;

    /// <summary>Runs one command line.</summary>
    /// <param name="args">The words after the program's name.</param>
    /// <param name="environment">What it meets.</param>
    /// <returns>The exit code: 0 done, 1 failed, 2 not understood.</returns>
    public static int Run(IReadOnlyList<string> args, CliEnvironment environment)
    {
        var options = new CommonOptions(environment);
        RootCommand root = Build(environment, options);
        ParseResult parsed = root.Parse(args);
        if (parsed.Errors.Count > 0)
        {
            // An unknown word explains the other errors, such as that a command is missing.
            IEnumerable<string> messages = parsed.UnmatchedTokens.Count > 0
                ? parsed.UnmatchedTokens.Select(t => $"\"{t}\" is not known here")
                : parsed.Errors.Select(e => e.Message).Distinct();
            foreach (string message in messages)
            {
                environment.Error.WriteLine($"vfiopin: {message}");
            }

            environment.Error.WriteLine($"see: {CommandPath(parsed)} --help");
            return Usage;
        }

        return parsed.Invoke(new InvocationConfiguration
        {
            Output = environment.Out,
            Error = environment.Error,
            EnableDefaultExceptionHandler = false,
            // The verbs end themselves on signals, in order: devices first, then memory.
            ProcessTerminationTimeout = null,
        });
    }

    /// <summary>The whole command tree.</summary>
    public static RootCommand Build(CliEnvironment environment, CommonOptions options)
    {
        var root = new RootCommand(
            "Pins memory for VFIO devices and runs virtqueues over it. "
            + "A device can write all memory that is mapped for it.");
        root.Options.Add(options.Output);
        options.Socket.Validators.Add(VerbBuilder.RefuseEmpty);
        root.Options.Add(options.Socket);
        var verbs = new VerbBuilder(environment, options);
        root.Subcommands.Add(DaemonVerb.Build(verbs));
        root.Subcommands.Add(DeviceVerbs.Build(verbs));
        root.Subcommands.Add(PoolVerbs.Build(verbs));
        root.Subcommands.Add(BlkVerbs.Build(verbs));
        root.Subcommands.Add(NetVerbs.Build(verbs));
        root.Subcommands.Add(DirtyVerbs.Build(verbs));
        root.Subcommands.Add(AttachVerb.Build(verbs));
        root.Subcommands.Add(DoctorVerb.Build(verbs));
        root.Subcommands.Add(PortVerbs.Build(verbs));
        root.Subcommands.Add(VhostUserNetVerb.Build(verbs));

        HelpOption help = root.Options.OfType<HelpOption>().Single();
        help.Action = new HelpWithExamples((HelpAction)help.Action!, verbs.Examples);
        return root;
    }

    private static string CommandPath(ParseResult parsed)
    {
        var names = new Stack<string>();
        for (SymbolNames? at = SymbolNames.Of(parsed.CommandResult.Command); at is not null; at = at.Parent)
        {
            names.Push(at.Name);
        }

        return string.Join(' ', names);
    }

    private sealed record SymbolNames(string Name, SymbolNames? Parent)
    {
        public static SymbolNames Of(Command command) => command is RootCommand
            ? new SymbolNames("vfiopin", null)
            : new SymbolNames(command.Name, command.Parents.OfType<Command>().Select(Of).FirstOrDefault());
    }
}
