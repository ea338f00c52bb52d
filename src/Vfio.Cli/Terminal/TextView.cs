using Spectre.Console;

namespace Vfio.Cli.Terminal;

/// <summary>Prints tables and lists: drawn on a terminal, plain aligned lines without escape codes elsewhere.</summary>
internal sealed class TextView
{
    private readonly TextWriter _out;
    private readonly IAnsiConsole? _console;

    public TextView(TextWriter output, bool terminal)
    {
        _out = output;
        _console = terminal ? AnsiConsole.Create(new AnsiConsoleSettings { Out = new AnsiConsoleOutput(output) }) : null;
    }

    /// <summary>Whether the output is a terminal.</summary>
    public bool IsTerminal => _console is not null;

    /// <summary>One line.</summary>
    public void Line(string text) => _out.WriteLine(text);

    /// <summary>One line with Spectre's markup; on a terminal only.</summary>
    public void Markup(string text) => _console?.MarkupLine(text);

    /// <summary>One line that begins with a word in colour.</summary>
    public void Line(string word, string color, string text)
    {
        if (_console is null)
        {
            _out.WriteLine($"{word}  {text}");
        }
        else
        {
            _console.Markup($"[{color}]{Spectre.Console.Markup.Escape(word)}[/]  ");
            // Not through Spectre, which would wrap it: what is cut at the terminal's edge cannot be copied.
            _out.WriteLine(text);
        }
    }

    /// <summary>A table.</summary>
    public void Table(string[] columns, IEnumerable<string[]> rows)
    {
        string[][] all = [.. rows];
        if (_console is not null)
        {
            var table = new Table { Border = TableBorder.Rounded };
            foreach (string column in columns)
            {
                table.AddColumn(new TableColumn(new Text(column, new Style(decoration: Decoration.Bold))).NoWrap());
            }

            foreach (string[] row in all)
            {
                table.AddRow(row.Select(cell => new Text(cell)));
            }

            _console.Write(table);
            return;
        }

        Aligned([columns, .. all]);
    }

    /// <summary>Names and values.</summary>
    public void List(IEnumerable<(string Name, string Value)> pairs)
    {
        (string Name, string Value)[] all = [.. pairs];
        if (_console is not null)
        {
            var grid = new Grid();
            grid.AddColumn().AddColumn();
            foreach ((string name, string value) in all)
            {
                grid.AddRow(new Text(name, new Style(decoration: Decoration.Bold)), new Text(value));
            }

            _console.Write(grid);
            return;
        }

        Aligned([.. all.Select(p => new[] { p.Name, p.Value })]);
    }

    private void Aligned(string[][] rows)
    {
        int[] widths = [.. Enumerable.Range(0, rows[0].Length).Select(column => rows.Max(row => row[column].Length))];
        foreach (string[] row in rows)
        {
            _out.WriteLine(string.Join("  ", row.Select((cell, column) => cell.PadRight(widths[column]))).TrimEnd());
        }
    }
}
