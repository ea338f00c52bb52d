using System.Runtime.CompilerServices;

namespace Vfio.Virtio;

/// <summary>The orderings that rings need, by name. Nothing else in this folder names <c>Volatile</c> or <c>Interlocked</c>.
/// Each use says in an ORDER comment what it pairs with on the other side. The other side is another processor: a device that
/// negotiated VIRTIO_F_ORDER_PLATFORM is as strongly ordered on x86-64, the platform that this is built for.</summary>
internal static unsafe class Barriers
{
    // SAFETY, for every method here: the caller owns the ring that the pointer lies in, and the pointer is naturally aligned.

    /// <summary>Reads an index or flags that the peer publishes; later reads see what it wrote before.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ushort ReadAcquire(ushort* address) => Volatile.Read(ref *address);

    /// <inheritdoc cref="ReadAcquire(ushort*)"/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static uint ReadAcquire(uint* address) => Volatile.Read(ref *address);

    /// <inheritdoc cref="ReadAcquire(ushort*)"/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong ReadAcquire(ulong* address) => Volatile.Read(ref *address);

    /// <summary>Publishes an index or flags after everything written before.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void WriteRelease(ushort* address, ushort value) => Volatile.Write(ref *address, value);

    /// <inheritdoc cref="WriteRelease(ushort*, ushort)"/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void WriteRelease(uint* address, uint value) => Volatile.Write(ref *address, value);

    /// <inheritdoc cref="WriteRelease(ushort*, ushort)"/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void WriteRelease(ulong* address, ulong value) => Volatile.Write(ref *address, value);

    /// <summary>Orders a store before a later load: after publishing and before reading the peer's event suppression, and after
    /// enabling notifications and before the re-check. Release and acquire do not order these two.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void StoreLoadFence() => Interlocked.MemoryBarrier();
}
