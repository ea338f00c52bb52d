using System.Buffers.Binary;

namespace Vfio.VhostUser;

/// <summary>Finishes a TCP or UDP checksum that a driver left to the device (virtio 1.3, 5.1.6.2.1): its field holds the sum of
/// the pseudo header.</summary>
internal static class InternetChecksum
{
    /// <summary>Sums from <paramref name="start"/> to the frame's end, and stores the complement.</summary>
    /// <param name="frame">The frame, at least two bytes.</param>
    /// <param name="start">Where the sum starts; checked, as the driver says it.</param>
    /// <param name="offset">Where the field is, from <paramref name="start"/> on; inside the frame, as the driver says and was checked.</param>
    public static void Finish(Span<byte> frame, int start, int offset)
    {
        ulong last = (ulong)frame.Length - sizeof(ushort);
        int field = (int)Speculation.Clamp((ulong)(start + offset), last);
        start = (int)Speculation.Clamp((ulong)start, last);
        ulong sum = 0;
        Span<byte> rest = frame[start..];
        while (rest.Length >= sizeof(ushort))
        {
            sum += BinaryPrimitives.ReadUInt16BigEndian(rest);
            rest = rest[sizeof(ushort)..];
        }

        // RFC 1071: an odd byte is padded with zero on the right.
        sum += rest.IsEmpty ? 0u : (uint)rest[0] << 8;
        while (sum >> 16 != 0)
        {
            sum = (sum & 0xFFFF) + (sum >> 16);
        }

        ushort checksum = (ushort)(~sum & 0xFFFF);
        // RFC 768: an unused UDP checksum is 0, so a sum of 0 is sent as all ones; for TCP the two are equal.
        BinaryPrimitives.WriteUInt16BigEndian(frame[field..], checksum == 0 ? (ushort)0xFFFF : checksum);
    }
}
