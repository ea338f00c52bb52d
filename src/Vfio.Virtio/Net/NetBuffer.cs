namespace Vfio.Virtio;

/// <summary>A buffer of a <see cref="VirtioNetDevice"/> with a frame in it, or a piece of a frame. Whoever has it from
/// <see cref="VirtioNetDevice.Receive"/> or <see cref="VirtioNetDevice.Allocate"/> gives it away once, to
/// <see cref="VirtioNetDevice.Send"/> or <see cref="VirtioNetDevice.Free"/>.</summary>
/// <remarks>A value of the size of a few words: it is copied, and what counts is which buffer it names.</remarks>
public readonly record struct NetBuffer
{
    internal NetBuffer(int slot, PinnedBuffer memory, int offset, int length, bool continues)
    {
        Slot = slot;
        Memory = memory;
        Offset = offset;
        Length = length;
        Continues = continues;
    }

    /// <summary>Bytes of the frame in this buffer.</summary>
    public int Length { get; }

    /// <summary>Whether the frame goes on in the next buffer of the span.</summary>
    public bool Continues { get; }

    /// <summary>Bytes of a frame that the buffer has room for.</summary>
    public int Capacity => Memory.Length - Offset;

    /// <summary>The frame's bytes, or this piece of them. A device that does not keep to the specification can still change them.</summary>
    public Span<byte> Span => Memory.Slice(Offset, Length).Span;

    internal int Slot { get; }

    /// <summary>The whole buffer.</summary>
    internal PinnedBuffer Memory { get; }

    /// <summary>Where the frame's bytes begin: behind the header, in the first buffer of a frame.</summary>
    internal int Offset { get; }

    /// <summary>The same buffer with another length.</summary>
    /// <param name="length">Bytes, up to <see cref="Capacity"/>.</param>
    /// <returns>The buffer.</returns>
    /// <exception cref="ArgumentOutOfRangeException">It has no room for so many.</exception>
    public NetBuffer WithLength(int length)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(length);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(length, Capacity);
        return new NetBuffer(Slot, Memory, Offset, length, Continues);
    }

    /// <summary>The same buffer, as the last piece of its frame or not.</summary>
    /// <param name="continues">Whether the frame goes on in the next buffer of the span.</param>
    /// <returns>The buffer.</returns>
    public NetBuffer WithContinuation(bool continues) => new(Slot, Memory, Offset, Length, continues);
}
