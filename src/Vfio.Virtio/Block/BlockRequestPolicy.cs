using Microsoft.Extensions.ObjectPool;

namespace Vfio.Virtio;

/// <summary>Makes a device's requests, each with its own piece of the arena; there are exactly as many as the queue is deep.</summary>
internal sealed class BlockRequestPolicy(PinnedBuffer arena) : PooledObjectPolicy<BlockRequest>
{
    private int _made;

    public override BlockRequest Create() => new(arena.Slice(_made++ * BlockRequest.ArenaBytes, BlockRequest.ArenaBytes));

    public override bool Return(BlockRequest obj) => true;
}
