namespace Vfio.Virtio;

/// <summary>What a network device says of itself (virtio 1.3, 5.1.4 "Device configuration layout"), and what was agreed with it.</summary>
/// <param name="Mac">Its address, or null where it does not tell.</param>
/// <param name="Mtu">Bytes of the largest payload of a frame; 1500 where the device does not tell.</param>
/// <param name="Features">What was negotiated of the transport and the ring.</param>
/// <param name="NetFeatures">What was negotiated of the network device.</param>
/// <param name="ReceiveQueueSize">Entries of the receive queue.</param>
/// <param name="TransmitQueueSize">Entries of the transmit queue.</param>
/// <param name="MaxPieces">Buffers that a frame lies in at most: more than one only with MRG_RXBUF and small buffers.</param>
public sealed record VirtioNetInfo(
    MacAddress? Mac,
    int Mtu,
    VirtioFeatures Features,
    NetFeatures NetFeatures,
    int ReceiveQueueSize,
    int TransmitQueueSize,
    int MaxPieces);
