using System.Runtime.InteropServices;
using Vfio.Linux;

namespace Vfio.Virtio;

/// <summary>What stands before each frame in a network queue (virtio 1.3, 5.1.6 "Device Operation"), as a copy.</summary>
[StructLayout(LayoutKind.Sequential, Size = Bytes)]
public record struct NetHeader
{
    /// <summary>Bytes with VERSION_1 or MRG_RXBUF.</summary>
    public const int Bytes = 12;

    /// <summary>Bytes without either: the number of buffers is not there.</summary>
    public const int LegacyBytes = 10;

    /// <summary>The <see cref="GsoKind"/> of TCP over IPv4.</summary>
    public const byte GsoTcp4 = virtio_net.VIRTIO_NET_HDR_GSO_TCPV4;

    /// <summary>The <see cref="GsoKind"/> of TCP over IPv6.</summary>
    public const byte GsoTcp6 = virtio_net.VIRTIO_NET_HDR_GSO_TCPV6;

    /// <summary>VIRTIO_NET_HDR_F_ bits.</summary>
    public byte Flags { get; set; }

    /// <summary>VIRTIO_NET_HDR_GSO_: how the frame is to be cut into segments.</summary>
    public byte GsoType { get; set; }

    /// <summary>Bytes of the frame's headers; a hint.</summary>
    public ushort HeaderLength { get; set; }

    /// <summary>Payload bytes of each segment.</summary>
    public ushort GsoSize { get; set; }

    /// <summary>Where the unfinished checksum's data starts in the frame.</summary>
    public ushort ChecksumStart { get; set; }

    /// <summary>Where the checksum belongs, from <see cref="ChecksumStart"/> on.</summary>
    public ushort ChecksumOffset { get; set; }

    /// <summary>Buffers that the frame lies in; received frames only.</summary>
    public ushort BufferCount { get; set; }

    /// <summary>Whether the checksum is not finished.</summary>
    public readonly bool NeedsChecksum => (Flags & virtio_net.VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0;

    /// <summary>Whether nothing is asked for.</summary>
    public readonly bool IsPlain => (Flags | GsoType) == 0;

    /// <summary>The kind of segment without the ECN bit.</summary>
    public readonly byte GsoKind => (byte)(GsoType & ~virtio_net.VIRTIO_NET_HDR_GSO_ECN);

    /// <summary>Whether what it asks for can be done to a frame of that length.</summary>
    /// <param name="frameLength">Bytes of the frame.</param>
    /// <returns>False when an offset lies outside, or a kind is unknown: nobody else should be made to believe it.</returns>
    public readonly bool IsValidFor(int frameLength)
    {
        bool checksum = !NeedsChecksum || ChecksumStart + ChecksumOffset + sizeof(ushort) <= frameLength;
        bool gso = GsoKind switch
        {
            virtio_net.VIRTIO_NET_HDR_GSO_NONE => true,
            // virtio 1.3, 5.1.6.2.1: a segment needs its checksum finished, and a size.
            GsoTcp4 or GsoTcp6 => NeedsChecksum && GsoSize != 0,
            _ => false,
        };
        return checksum && gso;
    }
}
