namespace Vfio.Virtio;

/// <summary>What a block request does.</summary>
public enum BlockOperation
{
    /// <summary>The device writes its sectors into memory.</summary>
    Read,

    /// <summary>The device reads its sectors from memory.</summary>
    Write,

    /// <summary>What was written before is on the medium when it completes.</summary>
    Flush,
}
