namespace Vfio.Service;

/// <summary>What a network port does with frames, seen from the back-end.</summary>
public enum ForwardMode
{
    /// <summary>Takes frames from the guest and drops them.</summary>
    RxOnly,

    /// <summary>Gives frames of a fixed size to the guest, as many as it has buffers for.</summary>
    TxOnly,

    /// <summary>Sends frames on: to the other port, or back where there is one only.</summary>
    Io,

    /// <summary>As <see cref="Io"/>, with source and destination MAC address exchanged.</summary>
    MacSwap,
}
