using Vfio.Virtio;

namespace Vfio.Service;

/// <summary>Counts what became of test frames.</summary>
internal sealed class FrameCheck
{
    // For frames in several buffers.
    private readonly byte[] _whole = new byte[1 << 17];

    // The number that comes next, once one has come.
    private ulong? _next;

    public long Good { get; private set; }

    public long Wrong { get; private set; }

    public long Missing { get; private set; }

    public long Other { get; private set; }

    /// <summary>Looks at received frames.</summary>
    public void Look(ReadOnlySpan<NetBuffer> frames)
    {
        int length = 0;
        for (int i = 0; i < frames.Length; i++)
        {
            ReadOnlySpan<byte> piece = frames[i].Span;
            if (length == 0 && !frames[i].Continues)
            {
                Look(piece);
                continue;
            }

            piece.CopyTo(_whole.AsSpan(length));
            length += piece.Length;
            if (!frames[i].Continues)
            {
                Look(_whole.AsSpan(0, length));
                length = 0;
            }
        }
    }

    /// <summary>The numbers from here on are expected, from the first frame on.</summary>
    public void Expect(ulong number) => _next = number;

    /// <summary>Frames up to this number were sent; those that have not come are missing.</summary>
    public void EndAt(ulong number) => Missing += (long)(number - Math.Min(number, _next ?? number));

    public CardCheck ToRecord() => new(Good, Wrong, Missing, Other);

    private void Look(ReadOnlySpan<byte> frame)
    {
        NumberedFrames.Verdict verdict = NumberedFrames.Check(frame, out ulong number);
        if (verdict == NumberedFrames.Verdict.Good && NumberedFrames.IsNumbered(frame) && !IsNext(number))
        {
            verdict = NumberedFrames.Verdict.Wrong;
        }

        switch (verdict)
        {
            case NumberedFrames.Verdict.Good:
                Good++;
                break;
            case NumberedFrames.Verdict.Wrong:
                Wrong++;
                break;
            default:
                Other++;
                break;
        }
    }

    // Frames come in the order in which they were sent; a gap is what was lost.
    private bool IsNext(ulong number)
    {
        ulong next = _next ?? number;
        if (number < next)
        {
            return false;
        }

        Missing += (long)Math.Min(number - next, long.MaxValue / 2);
        _next = number + 1;
        return true;
    }
}
