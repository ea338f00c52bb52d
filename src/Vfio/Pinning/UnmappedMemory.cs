namespace Vfio;

/// <summary>A mapping that is no more, and what the kernel knew of it at its end: it tracked which pages are dirty, and forgets that with the
/// mapping.</summary>
/// <param name="Mapping">The mapping. It may reach beyond what was released.</param>
/// <param name="Dirty">Its dirty pages, by their offsets from the mapping's first byte.</param>
public sealed record UnmappedMemory(DmaMapping Mapping, DirtyAnswer Dirty);
