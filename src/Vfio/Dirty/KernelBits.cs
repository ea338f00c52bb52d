using System.Numerics;

namespace Vfio;

/// <summary>The kernel's dirty bits, each for a page of its own size, as bits for pages of 4 KiB.</summary>
internal static class KernelBits
{
    /// <summary>Sets what the kernel's bits say. Allocates nothing.</summary>
    /// <param name="kernel">The kernel's bits.</param>
    /// <param name="scale">Pages of 4 KiB in one of the kernel's.</param>
    /// <param name="into">The bits to add to.</param>
    /// <param name="first">The page there of the kernel's first.</param>
    public static void Add(ReadOnlySpan<ulong> kernel, ulong scale, Span<ulong> into, ulong first)
    {
        for (int word = 0; word < kernel.Length; word++)
        {
            ulong page = (ulong)word * 64;
            // A run of set bits at a time: mostly all of them are.
            for (ulong bits = kernel[word]; bits != 0;)
            {
                int start = BitOperations.TrailingZeroCount(bits);
                int count = BitOperations.TrailingZeroCount(~(bits >> start));
                BitRange.Set(into, first + ((page + (ulong)start) * scale), (ulong)count * scale);
                bits = start + count == 64 ? 0 : bits & (ulong.MaxValue << (start + count));
            }
        }
    }
}
