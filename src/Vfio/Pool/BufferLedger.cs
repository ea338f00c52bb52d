using System.Diagnostics;
using Vfio.Linux;

namespace Vfio;

/// <summary>Watches rented buffers: who rented each and who returned it, whether it came back twice, and whether anybody wrote it after it came back.
/// Returned buffers are filled with a pattern that must be whole when they are rented again.</summary>
internal sealed class BufferLedger(string pool)
{
    private const byte Pattern = 0xdb;
    private const int Frames = 4;
    private readonly Lock _lock = new();
    private readonly Dictionary<ulong, string> _rented = [];
    private readonly Dictionary<ulong, (string Renter, string By)> _returned = [];

    /// <summary>Who holds buffers now, each with its stack.</summary>
    public IReadOnlyList<string> Renters
    {
        get
        {
            lock (_lock)
            {
                return [.. _rented.Select(r => $"{new HostAddress(r.Key)} rented by {r.Value}")];
            }
        }
    }

    public void Rented(in PinnedBuffer buffer)
    {
        lock (_lock)
        {
            if (_returned.Remove(buffer.Address.Value, out (string Renter, string By) returned)
                && buffer.Span.IndexOfAnyExcept(Pattern) is >= 0 and var at)
            {
                _rented[buffer.Address.Value] = Caller();
                throw Misuse(buffer, $"byte {at} was written after the buffer, rented by {returned.Renter}, was returned by {returned.By}",
                    "a device or a caller kept using a buffer that it had given back; complete the request, or reset the queue, before returning");
            }

            _rented[buffer.Address.Value] = Caller();
        }
    }

    public void Returned(in PinnedBuffer buffer)
    {
        lock (_lock)
        {
            if (!_rented.Remove(buffer.Address.Value, out string? renter))
            {
                throw Misuse(buffer, _returned.TryGetValue(buffer.Address.Value, out (string Renter, string By) returned)
                    ? $"the buffer, rented by {returned.Renter}, was returned before, by {returned.By}"
                    : "the buffer was never rented", "return each buffer once, whole, as it was rented");
            }

            _returned[buffer.Address.Value] = (renter, Caller());
            buffer.Span.Fill(Pattern);
        }
    }

    /// <summary>Forgets the pattern of buffers that the pool took back for something else.</summary>
    public void Forget(HostAddress buffer)
    {
        lock (_lock)
        {
            _returned.Remove(buffer.Value);
        }
    }

    // The frames that led here, nearest first, without the pool's own.
    private static string Caller()
    {
        IEnumerable<string> frames = new StackTrace(2, fNeedFileInfo: false).ToString()
            .Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries)
            .Where(f => !f.Contains($"{nameof(Vfio)}.{nameof(PinnedPool)}.", StringComparison.Ordinal)).Take(Frames);
        return string.Join(" < ", frames.Select(f => f.StartsWith("at ", StringComparison.Ordinal) ? f[3..] : f));
    }

    private LinuxException Misuse(in PinnedBuffer buffer, string cause, string cure) =>
        new("pool", Errno.EINVAL, $"{pool}: buffer at {buffer.Address}", cause, cure);
}
