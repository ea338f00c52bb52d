using Vfio.VhostUser;

namespace Vfio.Service;

/// <summary>The frames of <see cref="ForwardMode.TxOnly"/>.</summary>
internal static class TestFrames
{
    /// <summary>Fills a batch.</summary>
    /// <param name="batch">Empty.</param>
    /// <param name="size">Bytes of each.</param>
    public static void Fill(FrameBatch batch, int size)
    {
        for (int i = 0; i < FrameBatch.Capacity; i++)
        {
            Span<byte> bytes = batch.Add(size).Span;
            // Locally administered addresses, and the EtherType for local experiments (IEEE Std 802).
            bytes[0] = bytes[6] = 0x02;
            bytes[5] = 1;
            bytes[11] = 2;
            bytes[12] = 0x88;
            bytes[13] = 0xB5;
            for (int b = Frame.MinLength; b < bytes.Length; b++)
            {
                bytes[b] = (byte)(b & 0xFF);
            }
        }
    }
}
