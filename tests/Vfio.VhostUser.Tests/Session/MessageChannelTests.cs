using Vfio.Linux;

namespace Vfio.VhostUser.Tests.Session;

[TestClass]
public sealed class MessageChannelTests
{
    // A poller must not: the other thread may be waiting for a front-end that reads nothing.
    [TestMethod]
    public void Who_sends_at_once_waits_for_no_other_thread()
    {
        (UnixSocket ours, UnixSocket theirs) = UnixSocket.Pair();
        using var channel = new MessageChannel(ours);
        using (theirs)
        {
            const int Piece = 4096;
            int filled = 0;
            while (ours.TrySend(new byte[Piece]) == Errno.None)
            {
                filled += Piece;
            }

            bool isSending = false;
            var other = new Thread(() =>
            {
                Volatile.Write(ref isSending, true);
                channel.SendAll<ulong>(1, 0, [0]);
            });
            other.Start();
            while (!Volatile.Read(ref isSending))
            {
                Thread.Yield();
            }

            // By then it is inside.
            for (int i = 0; i < 10_000; i++)
            {
                Assert.IsFalse(channel.TrySendAllAtOnce<ulong>(1, 0, [0]));
                Thread.Yield();
            }

            using var none = new ReceivedDescriptors();
            byte[] buffer = new byte[Piece];
            while (filled > 0)
            {
                filled -= theirs.Receive(buffer, none);
            }

            other.Join();
            Assert.IsTrue(channel.TrySendAllAtOnce<ulong>(1, 0, [0]));
        }
    }
}
