namespace Vfio.Service;

/// <summary>Error codes on the control socket. The first five are JSON-RPC 2.0's own (section 5.1 "Error object").</summary>
internal static class RpcError
{
    public const int Parse = -32700;
    public const int InvalidRequest = -32600;
    public const int MethodNotFound = -32601;
    public const int InvalidParameters = -32602;
    public const int Internal = -32603;

    /// <summary>The operation failed; <c>data</c> is an <see cref="ErrorData"/>.</summary>
    public const int Failed = -32000;

    /// <summary>The operation was cancelled by its caller, or by the daemon's end.</summary>
    public const int Cancelled = -32001;
}
