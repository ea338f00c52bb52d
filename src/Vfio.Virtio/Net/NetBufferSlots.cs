namespace Vfio.Virtio;

/// <summary>The buffers of one network device, and whose each is at this moment.</summary>
internal sealed class NetBufferSlots
{
    private readonly PinnedBuffer _memory;
    private readonly int _bytes;
    private readonly Holder[] _holders;

    // Last in, first out: what was used last is still in cache.
    private readonly int[] _free;
    private int _freeCount;

    public NetBufferSlots(PinnedBuffer memory, int count, int bytes)
    {
        _memory = memory;
        _bytes = bytes;
        _holders = new Holder[count];
        _free = new int[count];
        for (int i = 0; i < count; i++)
        {
            _free[i] = count - 1 - i;
        }

        _freeCount = count;
    }

    public enum Holder : byte
    {
        Nobody,
        Caller,
        Device,
    }

    public int Free => _freeCount;

    public PinnedBuffer Memory(int slot) => _memory.Slice(slot * _bytes, _bytes);

    public bool TryTake(Holder holder, out int slot)
    {
        if (_freeCount == 0)
        {
            slot = 0;
            return false;
        }

        slot = _free[--_freeCount];
        _holders[slot] = holder;
        return true;
    }

    public void Give(int slot, Holder holder) => _holders[slot] = holder;

    public void Return(int slot)
    {
        _holders[slot] = Holder.Nobody;
        _free[_freeCount++] = slot;
    }

    /// <summary>Checks that a buffer is one of ours and in the caller's hands.</summary>
    /// <exception cref="ArgumentException">It is not.</exception>
    public void CheckCaller(in NetBuffer buffer)
    {
        int slot = buffer.Slot;
        if ((uint)slot >= (uint)_holders.Length || buffer.Memory != Memory(slot))
        {
            throw new ArgumentException("the buffer is not one of this device's", nameof(buffer));
        }

        if (_holders[slot] != Holder.Caller)
        {
            throw new ArgumentException("the buffer was given away before: it has been sent or freed", nameof(buffer));
        }
    }
}
