using System.Runtime.CompilerServices;
using Vfio.Virtio;

namespace Vfio.VhostUser;

/// <summary>Goes through a chain's segments as if they were one piece.</summary>
internal unsafe ref struct SegmentCursor(ReadOnlySpan<HostSegment> segments)
{
    private readonly ReadOnlySpan<HostSegment> _segments = segments;
    private int _index;
    private uint _offset;

    /// <summary>Copies the next bytes out; there are as many.</summary>
    public void Read(byte* target, int count)
    {
        while (count > 0)
        {
            byte* piece = Next(count, out uint part);
            Unsafe.CopyBlockUnaligned(target, piece, part);
            target += part;
            count -= (int)part;
        }
    }

    /// <summary>Copies the next bytes in; there is room for them.</summary>
    public void Write(byte* source, int count)
    {
        while (count > 0)
        {
            byte* piece = Next(count, out uint part);
            Unsafe.CopyBlockUnaligned(piece, source, part);
            source += part;
            count -= (int)part;
        }
    }

    // SAFETY: the span's own check stops whoever asks for more than there is; part never passes the segment's end.
    private byte* Next(int count, out uint part)
    {
        while (_offset == _segments[_index].Length)
        {
            _index++;
            _offset = 0;
        }

        HostSegment segment = _segments[_index];
        part = Math.Min((uint)count, segment.Length - _offset);
        byte* piece = segment.Base + _offset;
        _offset += part;
        return piece;
    }
}
