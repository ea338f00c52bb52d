namespace Vfio.VhostUser;

/// <summary>A front-end broke the protocol, or asked for what cannot be done. Ends the request or the session, never the process.</summary>
public sealed class VhostUserProtocolException : IOException
{
    /// <summary>Says what was wrong.</summary>
    /// <param name="message">The request, what came, and what was expected.</param>
    public VhostUserProtocolException(string message)
        : base(message)
    {
    }
}
