namespace Vfio.Virtio;

/// <summary>A part of a ring whose pages are not neighbours in this process.</summary>
public sealed unsafe class RingArea
{
    private const uint Page = 4096;
    private const ulong Alignment = 16;

    // Where each page of bus addresses starts here. SAFETY: the first may start before the area does; At never goes there.
    private readonly ulong[] _pages;
    private readonly uint _first;

    private RingArea(ulong[] pages, uint first, uint length)
    {
        _pages = pages;
        _first = first;
        Length = length;
    }

    /// <summary>Bytes.</summary>
    public uint Length { get; }

    /// <summary>Where its first byte is.</summary>
    public HostAddress First => new((ulong)At(0));

    /// <summary>Puts an area together.</summary>
    /// <param name="start">Its first byte, as the device numbers it.</param>
    /// <param name="pieces">Where it lies, in order. Each but the last ends where a page of 4 KiB of the device's addresses does, and all
    /// are aligned to 16 bytes as the device's addresses are: then no descriptor and no index lies across two of them.</param>
    /// <returns>The area; null where the pieces are not so, or of more than 4 GiB.</returns>
    public static RingArea? TryOf(BusAddress start, ReadOnlySpan<(HostAddress Address, ulong Length)> pieces)
    {
        var pages = new List<ulong>();
        uint first = (uint)(start.Value % Page);
        ulong length = 0;
        foreach ((HostAddress address, ulong bytes) in pieces)
        {
            ulong inPage = (first + length) % Page;
            if (bytes == 0 || bytes > uint.MaxValue - length - Page || (length != 0 && inPage != 0)
                || unchecked(address.Value - inPage) % Alignment != 0)
            {
                return null;
            }

            for (ulong page = 0; page < inPage + bytes; page += Page)
            {
                pages.Add(unchecked(address.Value - inPage + page));
            }

            length += bytes;
        }

        return length == 0 ? null : new RingArea([.. pages], first, (uint)length);
    }

    /// <summary>Where a byte is.</summary>
    /// <param name="offset">From the first; below <see cref="Length"/>.</param>
    internal byte* At(uint offset) => At(offset, out _);

    /// <summary>Where a byte is, and how far its page goes; the area may end before.</summary>
    /// <param name="offset">From the first; below <see cref="Length"/>.</param>
    /// <param name="together">Bytes from there to the end of its page.</param>
    internal byte* At(uint offset, out uint together)
    {
        uint place = _first + offset;
        together = Page - (place % Page);
        // Beyond the last page this throws: the caller's mask or count was wrong.
        return (byte*)_pages[place / Page] + (place % Page);
    }
}
