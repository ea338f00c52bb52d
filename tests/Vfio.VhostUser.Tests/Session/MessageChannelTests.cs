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
            while (ours.TrySend(new byte[4096]) == Errno.None)
            {
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
            byte[] buffer = new byte[1 << 16];
            do
            {
                theirs.Receive(buffer, none);
            }
            while (!other.Join(0));
            Assert.IsTrue(channel.TrySendAllAtOnce<ulong>(1, 0, [0]));
        }
    }
}
