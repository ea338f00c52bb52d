namespace Vfio.Linux;

/// <summary>What a path names.</summary>
public enum FileKind
{
    /// <summary>Nothing.</summary>
    None,

    /// <summary>A file with bytes of its own.</summary>
    Regular,

    /// <summary>A directory.</summary>
    Directory,

    /// <summary>A pipe with or without a name: opening it waits for the other side, and what was read is gone.</summary>
    Pipe,

    /// <summary>A device, a socket, or whatever else there is.</summary>
    Other,
}
