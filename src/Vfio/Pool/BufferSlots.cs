namespace Vfio;

/// <summary>The buffers that one segment can be cut into: where they are, and the links of the free ones. A buffer's index counts from
/// <see cref="First"/> and never means another buffer while the segment lives.</summary>
internal sealed class BufferSlots
{
    private readonly int _shift;

    public BufferSlots(uint first, HostAddress address, Iova iova, ulong length, int bufferSize)
    {
        _shift = int.Log2(bufferSize);
        First = first;
        Address = address;
        Iova = iova;
        Count = checked((uint)(length >> _shift));
        Nodes = new Node[Count];
    }

    public uint First { get; }

    public HostAddress Address { get; }

    public Iova Iova { get; }

    public uint Count { get; private set; }

    public Node[] Nodes { get; }

    public ref Node this[uint index] => ref Nodes[index - First];

    public bool Holds(uint index) => unchecked(index - First) < Count;

    public bool Holds(HostAddress address) => unchecked(address.Value - Address.Value) < (ulong)Count << _shift;

    /// <summary>Forgets the buffers behind the first <paramref name="length"/> bytes; all are free and in no stack.</summary>
    public void Truncate(ulong length) => Count = (uint)(length >> _shift);

    public ulong OffsetOf(uint index) => (ulong)(index - First) << _shift;

    public uint IndexAt(ulong offset) => First + (uint)(offset >> _shift);

    public PinnedBuffer Buffer(uint index)
    {
        ulong offset = OffsetOf(index);
        return new PinnedBuffer(new Iova(Iova.Value + offset), new HostAddress(Address.Value + offset), 1 << _shift);
    }

    /// <summary>A free buffer's links. <see cref="Next"/> is the buffer below it in its stack, plus 1; <see cref="Depth"/> counts it and those
    /// below; <see cref="NextBatch"/> is used while its stack is in the shared overflow.</summary>
    internal struct Node
    {
        public uint Next;
        public uint Depth;
        public uint NextBatch;
    }
}
