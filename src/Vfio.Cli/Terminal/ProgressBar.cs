using System.Globalization;
using System.Text;
using Spectre.Console;
using Vfio.Service;

namespace Vfio.Cli.Terminal;

/// <summary>A line on the terminal that tells how far an operation is, drawn anew with each report and wiped at the end.
/// Nothing anywhere else.</summary>
/// <remarks>Reports may come from any thread.</remarks>
internal sealed class ProgressBar : IDisposable
{
    private const int Width = 40;
    private const string Erase = "\r\e[K";

    private readonly Action<string> _write;
    private readonly bool _unicode;
    private readonly bool _shown;
    private readonly Lock _gate = new();
    private string _last = string.Empty;
    private bool _ended;

    public ProgressBar(Action<string> write, bool terminal)
    {
        _write = write;
        IAnsiConsole? console = terminal ? AnsiConsole.Console : null;
        // A terminal without escape codes (TERM=dumb) gets no bar: it could not be wiped.
        _shown = console is { Profile.Capabilities.Ansi: true };
        _unicode = console is { Profile.Capabilities.Unicode: true };
    }

    /// <summary>Draws the line.</summary>
    public void Report(ProgressReport report)
    {
        if (!_shown || report.Total == 0)
        {
            return;
        }

        double part = Math.Min(1, (double)report.Done / report.Total);
        int filled = (int)(part * Width);
        var line = new StringBuilder();
        line.Append(CultureInfo.InvariantCulture, $"{report.Stage} ");
        line.Append(_unicode ? '━' : '#', filled).Append(_unicode ? '╌' : '.', Width - filled);
        line.Append(CultureInfo.InvariantCulture, $" {part * 100,3:0}% of {SizeText.Of(report.Total)}");
        string text = line.ToString();
        lock (_gate)
        {
            if (!_ended && text != _last)
            {
                _last = text;
                _write(Erase + text);
            }
        }
    }

    public void Dispose()
    {
        lock (_gate)
        {
            _ended = true;
            if (_last.Length > 0)
            {
                _write(Erase);
            }
        }
    }
}
