namespace Vfio.Service;

/// <summary>Whether a port has a front-end.</summary>
public enum PortState
{
    /// <summary>None; it waits for one to connect.</summary>
    Listening,

    /// <summary>None; it tries to connect to one.</summary>
    Connecting,

    /// <summary>One has a session.</summary>
    Connected,

    /// <summary>The only connection that it was given has ended.</summary>
    Ended,

    /// <summary>It meets no front-end any more, for a reason that is told.</summary>
    Failed,
}
