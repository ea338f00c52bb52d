using System.Runtime.CompilerServices;

namespace Vfio.VhostUser;

/// <summary>A range of the addresses that a device uses, and where it lies in this process, as the datapath wants it: whether a buffer is
/// inside, and harmless in mispredicted execution where it is not, are one computation.</summary>
/// <param name="first">The first address.</param>
/// <param name="length">Bytes, below 2^63; 0 holds nothing.</param>
/// <param name="host">Where the first byte is; <c>host + length</c> does not wrap.</param>
internal readonly struct AddressWindow(ulong first, ulong length, ulong host)
{
    /// <summary>The first address.</summary>
    public readonly ulong First = first;

    /// <summary>Bytes.</summary>
    public readonly ulong Length = length;

    /// <summary>Where the first byte is.</summary>
    public readonly ulong Host = host;

    /// <summary>Translates a buffer that is wholly inside.</summary>
    /// <param name="address">Its first byte.</param>
    /// <param name="length">Bytes, at least 1.</param>
    /// <param name="host">Where it is; where it is not inside, an address of the window, to be used for nothing.</param>
    /// <returns>Whether it is inside.</returns>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public bool TryTranslate(ulong address, uint length, out HostAddress host)
    {
        ulong offset = unchecked(address - First);
        ulong left = unchecked(Length - offset);
        // Bit 63 of the first two is set where the buffer begins before the window or behind it. Where neither is, the third does not wrap
        // (left is at least 0, length below 2^32), and its bit 63 is set where the buffer ends behind the window.
        ulong outside = offset | left | unchecked(left - length);
        host = new HostAddress(unchecked(Host + Speculation.Clear(offset, outside)));
        return unchecked((long)outside) >= 0;
    }
}
