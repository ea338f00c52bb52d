using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics.X86;

namespace Vfio.Linux;

/// <summary>Cache lines that will be written soon, gathered so that all are asked for at once: one after the other they would
/// each wait for another processor to let go of them.</summary>
/// <remarks>For one thread. A hint: any address is allowed, nothing is read or written.</remarks>
internal unsafe struct CacheLines
{
    /// <summary>Bytes of a line.</summary>
    public const int LineBytes = 64;

    /// <summary>As many as are gathered; what comes behind is forgotten.</summary>
    public const int Capacity = 128;

    private Addresses _lines;
    private int _count;

    /// <summary>Asks for one line, which will be read.</summary>
    /// <param name="address">Anywhere in it.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Prefetch(void* address)
    {
        if (Sse.IsSupported)
        {
            Sse.Prefetch0(address);
        }
    }

    /// <summary>Adds the lines of a range.</summary>
    /// <param name="start">Its first byte.</param>
    /// <param name="length">Bytes.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Add(void* start, nuint length)
    {
        nuint line = (nuint)start & ~(nuint)(LineBytes - 1);
        nuint end = unchecked((nuint)start + length);
        for (; line < end && _count < Capacity; line += LineBytes)
        {
            _lines[_count++] = unchecked((nint)line);
        }
    }

    /// <summary>Asks for them, and forgets them.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Fetch()
    {
        // SAFETY: the call reads as many addresses as were written, and does not look behind them.
        fixed (nint* lines = &_lines[0])
        {
            NativeCode.vfiopin_prefetch_for_write(lines, (nuint)_count);
        }

        _count = 0;
    }

    [InlineArray(Capacity)]
    private struct Addresses
    {
        private nint _first;
    }
}
