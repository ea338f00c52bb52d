namespace Vfio.Service;

/// <summary>Passes progress on once a percent, so that telling it costs nothing beside the work.</summary>
/// <remarks>Thread-safe.</remarks>
internal sealed class ProgressMeter(string stage, Action<ProgressReport>? progress) : IProgress<PopulateProgress>
{
    private long _lastPercent = -1;

    public void Report(PopulateProgress value) => Report(value.Done, value.Total);

    public void Report(ulong done, ulong total)
    {
        if (progress is null || total == 0)
        {
            return;
        }

        long percent = (long)((double)done / total * 100);
        // ORDER: none needed beyond the number itself; the exchange below decides which of several threads reports.
        long last = Volatile.Read(ref _lastPercent);
        if (percent > last && Interlocked.CompareExchange(ref _lastPercent, percent, last) == last)
        {
            progress(new ProgressReport(stage, done, total));
        }
    }
}
