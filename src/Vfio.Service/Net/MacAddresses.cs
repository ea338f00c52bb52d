using System.Runtime.InteropServices;
using Vfio.VhostUser;

namespace Vfio.Service;

/// <summary>What <see cref="ForwardMode.MacSwap"/> does to a frame.</summary>
internal static class MacAddresses
{
    /// <summary>Exchanges destination and source of each frame.</summary>
    public static void Swap(ReadOnlySpan<Frame> frames)
    {
        foreach (ref readonly Frame frame in frames)
        {
            Span<byte> bytes = frame.Span;
            ulong destination = MemoryMarshal.Read<ulong>(bytes) & 0xFFFF_FFFF_FFFF;
            ulong source = MemoryMarshal.Read<ulong>(bytes[6..]) & 0xFFFF_FFFF_FFFF;
            ulong type = MemoryMarshal.Read<ulong>(bytes[6..]) & 0xFFFF_0000_0000_0000;
            MemoryMarshal.Write(bytes, source);
            MemoryMarshal.Write(bytes[6..], destination | type);
        }
    }
}
