namespace Vfio;

/// <summary>The kind of a virtio device, as its number says.</summary>
/// <remarks>Numbers: virtio 1.3, 5 "Device Types".</remarks>
public enum VirtioDeviceType
{
    /// <summary>Not a virtio device, or a reserved number.</summary>
    None = 0,

    /// <summary>Network card.</summary>
    Net = 1,

    /// <summary>Block device.</summary>
    Block = 2,

    /// <summary>Console.</summary>
    Console = 3,

    /// <summary>Entropy source.</summary>
    Entropy = 4,

    /// <summary>Traditional memory balloon.</summary>
    Balloon = 5,

    /// <summary>SCSI host.</summary>
    Scsi = 8,

    /// <summary>9P transport.</summary>
    NinePTransport = 9,

    /// <summary>GPU.</summary>
    Gpu = 16,

    /// <summary>Input device.</summary>
    Input = 18,

    /// <summary>Socket device.</summary>
    Vsock = 19,

    /// <summary>Crypto device.</summary>
    Crypto = 20,

    /// <summary>IOMMU device.</summary>
    Iommu = 23,

    /// <summary>Memory device.</summary>
    Memory = 24,

    /// <summary>Sound device.</summary>
    Sound = 25,

    /// <summary>File system device.</summary>
    FileSystem = 26,

    /// <summary>Persistent memory device.</summary>
    PersistentMemory = 27,

    /// <summary>I2C adapter.</summary>
    I2cAdapter = 34,

    /// <summary>GPIO controller.</summary>
    Gpio = 41,
}
