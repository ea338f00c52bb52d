namespace Vfio.Service;

/// <summary>Passes progress on once a percent, so that telling it costs nothing beside the work.</summary>
/// <remarks>Thread-safe.</remarks>
internal sealed class ProgressMeter(string stage, Action<ProgressReport>? progress) : IProgress<PopulateProgress>
{
    private readonly Lock _telling = new();
    private long _lastPercent = -1;

    public void Report(PopulateProgress value) => Report(value.Done, value.Total);

    public void Report(ulong done, ulong total)
    {
        if (progress is null || total == 0)
        {
            return;
        }

        long percent = (long)((double)done / total * 100);
        // Of several threads' reports none may be told behind a later one, nor the last be left out.
        lock (_telling)
        {
            if (percent > _lastPercent)
            {
                _lastPercent = percent;
                progress(new ProgressReport(stage, done, total));
            }
        }
    }
}
