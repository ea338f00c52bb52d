using System.Buffers.Binary;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>A frame in a buffer of a <see cref="FrameBatch"/>.</summary>
public unsafe record struct Frame
{
    /// <summary>The shortest frame that is one: an Ethernet header.</summary>
    public const int MinLength = 14;

    /// <summary>The longest: 64 KiB of segments behind an Ethernet header with two VLAN tags (virtio 1.3, 5.1.6.3.1).</summary>
    public const int MaxLength = 65536 + 22;

    /// <summary>Its first byte.</summary>
    public HostAddress Data { get; internal set; }

    /// <summary>Bytes.</summary>
    public int Length { get; internal set; }

    /// <summary>What was said about it; all zero for a plain frame. The number of buffers in it means nothing.</summary>
    public NetHeader Header { get; internal set; }

    /// <summary>The bytes.</summary>
    // SAFETY: the batch owns the buffer, and only its own thread uses it.
    public readonly Span<byte> Span => new((byte*)Data.Value, Length);

    /// <summary>Bytes of its VLAN tags, of which it may have two.</summary>
    // IEEE 802.1Q, 9.5: a customer's tag; before it may be a service's.
    internal readonly int TagBytes
    {
        get
        {
            const int FirstType = 12;
            const int Tag = 4;
            int tags = 0;
            while (tags < 2 * Tag && Length >= FirstType + tags + Tag
                && BinaryPrimitives.ReadUInt16BigEndian(Span[(FirstType + tags)..]) is 0x8100 or 0x88A8)
            {
                tags += Tag;
            }

            return tags;
        }
    }

    internal readonly byte* Base => (byte*)Data.Value;

    /// <summary>Copies a frame's bytes.</summary>
    /// <param name="target">Where to; not over the source.</param>
    /// <param name="source">Where from; a driver may be writing there.</param>
    /// <param name="length">Bytes.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static void Copy(byte* target, byte* source, uint length)
    {
        // The smallest frames are the most frequent ones: two halves that may overlap.
        if (unchecked(length - (uint)Vector256<byte>.Count) > (uint)Vector256<byte>.Count)
        {
            Unsafe.CopyBlockUnaligned(target, source, length);
            return;
        }

        Vector256<byte> start = Vector256.Load(source);
        Vector256<byte> end = Vector256.Load(source + length - Vector256<byte>.Count);
        start.Store(target);
        end.Store(target + length - Vector256<byte>.Count);
    }
}
