using System.Runtime.InteropServices;
using Vfio.Virtio;

namespace Vfio.Service;

/// <summary>Test frames that tell what they should be: behind the two addresses and the EtherType for local experiments stand a
/// mark, the frame's length, its number, and bytes that follow from the number.</summary>
internal static class NumberedFrames
{
    /// <summary>The shortest: the fields and one word of payload.</summary>
    public const int MinBytes = PayloadAt + sizeof(ulong);

    private const int MarkAt = VirtioNetDevice.MinFrameBytes;
    private const int LengthAt = MarkAt + sizeof(uint);
    private const int NumberAt = LengthAt + sizeof(uint);
    private const int PayloadAt = NumberAt + sizeof(ulong);
    private const uint Mark = 0x6E_70_66_76;
    private const ushort LocalExperiment = 0xB588;

    public enum Verdict
    {
        Good,
        Wrong,
        Other,
    }

    /// <summary>Fills a frame.</summary>
    /// <param name="frame">At least <see cref="MinBytes"/>.</param>
    /// <param name="number">Its number.</param>
    /// <param name="source">The sender's address.</param>
    public static void Fill(Span<byte> frame, ulong number, MacAddress source)
    {
        // Locally administered, to nobody in particular.
        new MacAddress(0x01_00_00_00_00_02).Write(frame);
        source.Write(frame[MacAddress.Bytes..]);
        MemoryMarshal.Write(frame[(2 * MacAddress.Bytes)..], LocalExperiment);
        MemoryMarshal.Write(frame[MarkAt..], Mark);
        MemoryMarshal.Write(frame[LengthAt..], (uint)frame.Length);
        MemoryMarshal.Write(frame[NumberAt..], number);
        for (int at = PayloadAt; at < frame.Length; at += sizeof(ulong))
        {
            WordAt(number, at, frame.Length - at, frame[at..]);
        }
    }

    /// <summary>Looks at a frame. The addresses may have been exchanged on the way.</summary>
    /// <param name="frame">The frame.</param>
    /// <param name="number">Its number, when it is good.</param>
    /// <returns>Whether it is as it was sent.</returns>
    public static Verdict Check(ReadOnlySpan<byte> frame, out ulong number)
    {
        number = 0;
        if (frame.Length < MinBytes
            || MemoryMarshal.Read<ushort>(frame[(2 * MacAddress.Bytes)..]) != LocalExperiment)
        {
            return Verdict.Other;
        }

        if (MemoryMarshal.Read<uint>(frame[MarkAt..]) != Mark)
        {
            // What a back-end of vfiopin generates: each byte is the low half of its own offset.
            return CountsUp(frame) ? Verdict.Good : Verdict.Wrong;
        }

        number = MemoryMarshal.Read<ulong>(frame[NumberAt..]);
        if (MemoryMarshal.Read<uint>(frame[LengthAt..]) != frame.Length)
        {
            return Verdict.Wrong;
        }

        Span<byte> expected = stackalloc byte[sizeof(ulong)];
        for (int at = PayloadAt; at < frame.Length; at += sizeof(ulong))
        {
            int left = Math.Min(sizeof(ulong), frame.Length - at);
            WordAt(number, at, left, expected);
            if (!frame.Slice(at, left).SequenceEqual(expected[..left]))
            {
                return Verdict.Wrong;
            }
        }

        return Verdict.Good;
    }

    /// <summary>Whether a frame has a number; false for those that a back-end generates, which are all the same.</summary>
    public static bool IsNumbered(ReadOnlySpan<byte> frame) => MemoryMarshal.Read<uint>(frame[MarkAt..]) == Mark;

    private static bool CountsUp(ReadOnlySpan<byte> frame)
    {
        for (int at = MarkAt; at < frame.Length; at++)
        {
            if (frame[at] != (byte)(at & 0xFF))
            {
                return false;
            }
        }

        return true;
    }

    // Other bytes for each number and each place: what was shifted, or is of another frame, does not pass.
    private static void WordAt(ulong number, int at, int left, Span<byte> place)
    {
        ulong word = unchecked((number + 1) * 0x9E37_79B9_7F4A_7C15) ^ unchecked((ulong)at * 0xD6E8_FEB8_6659_FD93);
        for (int i = 0; i < Math.Min(sizeof(ulong), left); i++)
        {
            place[i] = (byte)((word >> (8 * i)) & 0xFF);
        }
    }
}
