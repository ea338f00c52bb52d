using System.CommandLine;
using System.CommandLine.Parsing;

namespace Vfio.Cli;

/// <summary>Makes commands whose errors all end the same way.</summary>
internal sealed class VerbBuilder(CliEnvironment environment, CommonOptions options)
{
    private readonly Dictionary<Command, string[]> _examples = [];

    /// <summary>The examples of each command, for its help.</summary>
    public IReadOnlyDictionary<Command, string[]> Examples => _examples;

    /// <summary>A command that only holds others.</summary>
    public Command Noun(string name, string description, params ReadOnlySpan<Command> verbs)
    {
        var command = new Command(name, description);
        foreach (Command verb in verbs)
        {
            command.Subcommands.Add(verb);
        }

        _examples[command] = [.. verbs.ToArray().SelectMany(v => _examples[v][..1])];
        return command;
    }

    /// <summary>A command that does something.</summary>
    /// <param name="name">Its name.</param>
    /// <param name="description">What it does, one sentence without the full stop.</param>
    /// <param name="examples">Command lines that work.</param>
    /// <param name="symbols">Its arguments and options.</param>
    /// <param name="run">What it does; throws what fails.</param>
    public Command Verb(string name, string description, string[] examples, Symbol[] symbols, Func<Invocation, int> run)
    {
        var command = new Command(name, description);
        foreach (Symbol symbol in symbols)
        {
            switch (symbol)
            {
                case Argument argument:
                    argument.Validators.Add(RefuseEmpty);
                    command.Arguments.Add(argument);
                    break;
                case Option option:
                    option.Validators.Add(RefuseEmpty);
                    command.Options.Add(option);
                    break;
                default:
                    throw new ArgumentException($"{symbol.Name} is neither an argument nor an option", nameof(symbols));
            }
        }

        command.SetAction(parsed => Invocation.Run(parsed, environment, options, run));
        _examples[command] = examples;
        return command;
    }

    /// <summary>Refuses empty values: most likely a variable of a shell that was not set.</summary>
    public static void RefuseEmpty(SymbolResult result)
    {
        if (result.Tokens.Any(t => t.Value.Length == 0))
        {
            result.AddError($"{(result is OptionResult option ? option.Option.Name : ((ArgumentResult)result).Argument.Name)}: the value is empty");
        }
    }
}
