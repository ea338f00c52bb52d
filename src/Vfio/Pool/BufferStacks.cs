using System.Runtime.InteropServices;

namespace Vfio;

/// <summary>The free buffers: a stack for each thread, last in first out, and an overflow of whole stacks that all share. Renting and returning
/// take no lock and allocate nothing.</summary>
/// <remarks>
/// <para>A stack is a word: the top buffer's index plus 1 in the lower half, and a tag in the upper half that each change increments, so that a
/// compare-exchange fails when the same buffer came back to the top in between. Threads choose their stack by their number; two that
/// choose the same one are slower, never wrong, and any thread may empty any stack, which is how the pool takes buffers back.</para>
/// <para>A stack that reaches <see cref="Most"/> buffers goes to the overflow as it is, in one exchange, and one that is empty is filled from it
/// likewise, so threads that only rent and threads that only return meet once in <see cref="Most"/> buffers.</para>
/// </remarks>
internal sealed class BufferStacks
{
    /// <summary>Buffers that one thread's stack holds before it goes to the overflow.</summary>
    public const uint Most = 64;

    private readonly Head[] _stacks = new Head[Math.Min(64u, System.Numerics.BitOperations.RoundUpToPowerOf2((uint)Environment.ProcessorCount * 2))];
    private readonly Head[] _shared = new Head[1];
    private BufferSlots[] _slots = [];

    /// <summary>The segments' buffers. Replaced as a whole, under the pool's lock.</summary>
    public BufferSlots[] Slots
    {
        // ORDER: acquire; pairs with the release in the setter, so that a segment's nodes are there before an index of them can be read.
        get => Volatile.Read(ref _slots);
        set => Volatile.Write(ref _slots, value);
    }

    private ref ulong Own => ref _stacks[(uint)Environment.CurrentManagedThreadId & (uint)(_stacks.Length - 1)].Value;

    private ref ulong Shared => ref _shared[0].Value;

    /// <summary>The segment that holds a buffer.</summary>
    public BufferSlots? Find(uint index)
    {
        foreach (BufferSlots slots in Slots)
        {
            if (slots.Holds(index))
            {
                return slots;
            }
        }

        return null;
    }

    /// <summary>The segment that holds an address.</summary>
    public BufferSlots? Find(HostAddress address)
    {
        foreach (BufferSlots slots in Slots)
        {
            if (slots.Holds(address))
            {
                return slots;
            }
        }

        return null;
    }

    /// <summary>Takes a free buffer: of this thread, else of the overflow, else of any thread.</summary>
    public bool TryPop(out uint index)
    {
        if (TryPop(ref Own, out index))
        {
            return true;
        }

        if (TryPopBatch(out uint top))
        {
            index = top;
            uint rest = Node(top).Next;
            if (rest != 0)
            {
                Install(rest);
            }

            return true;
        }

        for (int i = 0; i < _stacks.Length; i++)
        {
            if (TryPop(ref _stacks[i].Value, out index))
            {
                return true;
            }
        }

        return false;
    }

    /// <summary>Gives a buffer back to this thread's stack.</summary>
    public void Push(BufferSlots slots, uint index)
    {
        ref ulong stack = ref Own;
        ref BufferSlots.Node node = ref slots[index];
        while (true)
        {
            ulong head = Volatile.Read(ref stack);
            uint below = Top(head);
            uint depth = below == 0 ? 0 : Depth(below - 1);
            if (depth >= Most)
            {
                // The full stack goes to the overflow whole.
                if (Interlocked.CompareExchange(ref stack, Tagged(head, 0), head) == head)
                {
                    PushBatch(below - 1);
                }

                continue;
            }

            node.Next = below;
            node.Depth = depth + 1;
            // ORDER: full fence; the node's links are there before the head names it, pairs with the read of the head in TryPop.
            if (Interlocked.CompareExchange(ref stack, Tagged(head, index + 1), head) == head)
            {
                return;
            }
        }
    }

    /// <summary>Adds new free buffers: a run of <paramref name="count"/> from <paramref name="first"/> on, lowest on top.</summary>
    public void PushRun(BufferSlots slots, uint first, uint count)
    {
        uint below = 0;
        uint depth = 0;
        for (uint end = first + count; end > first; end--)
        {
            ref BufferSlots.Node node = ref slots[end - 1];
            node.Next = below;
            node.Depth = ++depth;
            below = end;
        }

        PushBatch(first);
    }

    /// <summary>Takes every free buffer out of every stack. Buffers returned meanwhile may be missed.</summary>
    public void Drain(List<uint> indices)
    {
        for (int i = 0; i < _stacks.Length; i++)
        {
            while (TryPop(ref _stacks[i].Value, out uint index))
            {
                indices.Add(index);
            }
        }

        while (TryPopBatch(out uint top))
        {
            for (uint next = top + 1; next != 0; next = Node(next - 1).Next)
            {
                indices.Add(next - 1);
            }
        }
    }

    private static uint Top(ulong head) => unchecked((uint)head);

    private static ulong Tagged(ulong head, uint top) => unchecked((head & 0xffff_ffff_0000_0000) + (1ul << 32)) | top;

    private bool TryPop(ref ulong stack, out uint index)
    {
        while (true)
        {
            // ORDER: acquire; the links of the buffer that the head names are read after it, pairs with the exchange in Push.
            ulong head = Volatile.Read(ref stack);
            if (Top(head) == 0)
            {
                index = 0;
                return false;
            }

            index = Top(head) - 1;
            // Another thread may take the buffer first, and then what is read here is not used: the tag has moved on.
            if (Find(index) is { } slots && Interlocked.CompareExchange(ref stack, Tagged(head, slots[index].Next), head) == head)
            {
                return true;
            }
        }
    }

    private bool TryPopBatch(out uint top)
    {
        ref ulong shared = ref Shared;
        while (true)
        {
            // ORDER: acquire, as in TryPop.
            ulong head = Volatile.Read(ref shared);
            if (Top(head) == 0)
            {
                top = 0;
                return false;
            }

            top = Top(head) - 1;
            if (Find(top) is { } slots && Interlocked.CompareExchange(ref shared, Tagged(head, slots[top].NextBatch), head) == head)
            {
                return true;
            }
        }
    }

    private void PushBatch(uint top)
    {
        ref ulong shared = ref Shared;
        ref BufferSlots.Node node = ref Node(top);
        ulong head;
        do
        {
            head = Volatile.Read(ref shared);
            node.NextBatch = Top(head);
        }
        // ORDER: full fence, as in Push.
        while (Interlocked.CompareExchange(ref shared, Tagged(head, top + 1), head) != head);
    }

    // Makes a whole stack this thread's, if it has none by now.
    private void Install(uint top)
    {
        ref ulong stack = ref Own;
        ulong head = Volatile.Read(ref stack);
        if (Top(head) != 0 || Interlocked.CompareExchange(ref stack, Tagged(head, top), head) != head)
        {
            PushBatch(top - 1);
        }
    }

    // Of a buffer whose stack nobody else can see.
    private ref BufferSlots.Node Node(uint index) => ref Find(index)![index];

    // Of a buffer that another thread may just have taken, with its segment: any answer will do then, as the exchange that follows fails.
    private uint Depth(uint index) => Find(index) is { } slots ? slots[index].Depth : 0;

    // A line of its own, and the one that the processor fetches with it.
    [StructLayout(LayoutKind.Explicit, Size = 128)]
    private struct Head
    {
        [FieldOffset(64)]
        public ulong Value;
    }
}
