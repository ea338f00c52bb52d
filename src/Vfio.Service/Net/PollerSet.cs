using System.Diagnostics.CodeAnalysis;
using Vfio.Linux;

namespace Vfio.Service;

/// <summary>The pollers of an engine: one for each processor that a port asks for, and one for all ports that ask for none. A poller
/// lives as long as a port has it.</summary>
/// <remarks>Changed by one thread at a time.</remarks>
internal sealed class PollerSet(NetEngine engine)
{
    private readonly List<Entry> _entries = [];

    /// <summary>The pollers of a port.</summary>
    /// <param name="processors">The processors that it asks for; empty for wherever the scheduler puts it.</param>
    /// <returns>A poller for each, or one. Give them back with <see cref="Release"/>.</returns>
    /// <exception cref="LinuxException">This process may not use such a processor.</exception>
    public List<Poller> Acquire(IReadOnlyList<Processor> processors)
    {
        var acquired = new List<Poller>();
        try
        {
            foreach (Processor? processor in processors.Count == 0 ? [null] : processors.Distinct().Select(p => (Processor?)p))
            {
                acquired.Add(Acquire(processor));
            }

            return acquired;
        }
        catch
        {
            Release(acquired);
            throw;
        }
    }

    /// <summary>Gives pollers back; those that nobody has any more end.</summary>
    public void Release(List<Poller> pollers)
    {
        while (pollers.Count != 0)
        {
            Entry entry = _entries.Find(e => e.Poller == pollers[^1])!;
            pollers.RemoveAt(pollers.Count - 1);
            if (--entry.Users == 0)
            {
                _entries.Remove(entry);
                entry.Poller.Dispose();
            }
        }
    }

    [SuppressMessage("Reliability", "CA2000:Dispose objects before losing scope", Justification = "the entry has it until its last user gives it back")]
    private Poller Acquire(Processor? processor)
    {
        Entry? entry = _entries.Find(e => e.Processor == processor);
        if (entry is null)
        {
            entry = new Entry(processor, new Poller(processor is { } number ? $"poller-{number.Number}" : "poller", processor, engine.Grace, engine.LongestSleep));
            _entries.Add(entry);
        }

        entry.Users++;
        return entry.Poller;
    }

    private sealed class Entry(Processor? processor, Poller poller)
    {
        public Processor? Processor { get; } = processor;

        public Poller Poller { get; } = poller;

        public int Users { get; set; }
    }
}
