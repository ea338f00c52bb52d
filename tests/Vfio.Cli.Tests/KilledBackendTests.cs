using System.Diagnostics;
using Vfio.Linux;
using Vfio.Testing.VhostUser;
using Vfio.Virtio;

namespace Vfio.Cli.Tests;

/// <summary>The program itself, in a process of its own, killed with SIGKILL at any moment while frames go through it.</summary>
[TestClass]
public sealed class KilledBackendTests
{
    private const int Kills = 6;

    // What is in a back-end's own memory when it dies: one batch.
    private const int Batch = 32;

    public TestContext TestContext { get; set; } = null!;

    [TestMethod]
    [DataRow(VirtioFeatures.None)]
    [DataRow(VirtioFeatures.RingPacked)]
    [DataRow(VirtioFeatures.RingPacked | VirtioFeatures.RingEventIdx | VirtioFeatures.InOrder)]
    public void Whoever_takes_over_from_a_killed_back_end_uses_every_descriptor_once_and_loses_no_more_than_was_in_its_hands(
        VirtioFeatures features)
    {
        int seed = Environment.TickCount;
        TestContext.WriteLine($"seed {seed}");
        var random = new Random(seed);
        string directory = Directory.CreateTempSubdirectory("vfiopin-killed-").FullName;
        string path = Path.Combine(directory, "socket");
        try
        {
            using var guest = new RestartGuest(features);
            for (int kill = 0; kill < Kills; kill++)
            {
                using Process backend = Start(path);
                guest.Connect(ConnectTo(path, backend));
                long goal = guest.Arrived + random.Next(1, 3000);
                PortGuest.Until(
                    () =>
                    {
                        guest.Turn(sends: true);
                        return guest.Arrived >= goal;
                    },
                    $"only {guest.Arrived} of {guest.Sent} frames came after {kill} kills; the back-end has {guest.Outstanding} descriptors");
                backend.Kill();
                backend.WaitForExit();
                guest.Disconnect();
            }

            using Process last = Start(path);
            guest.Connect(ConnectTo(path, last));
            Drain(guest);
            long lost = guest.Sent - guest.Arrived;
            TestContext.WriteLine($"{guest.Sent} sent, {lost} lost in {Kills} kills, {guest.Repeated} came twice");
            Assert.IsLessThanOrEqualTo(Kills * Batch, lost);
            guest.SendMissing();
            Drain(guest);
            Assert.AreEqual(guest.Sent, guest.Arrived);
            Assert.AreEqual(lost, guest.SentAgain);
            last.Kill();
            last.WaitForExit();
        }
        finally
        {
            Directory.Delete(directory, recursive: true);
        }
    }

    // Until the device has used all that it was given to send, and what of it comes has come.
    private static void Drain(RestartGuest guest)
    {
        PortGuest.Until(
            () =>
            {
                guest.Turn(sends: false);
                return guest.Outstanding == 0;
            },
            $"the device keeps {guest.Outstanding} descriptors");
        // A frame behind all others: what did not come before it will not come.
        long before = guest.Sent;
        guest.Turn(sends: true);
        Assert.IsGreaterThan(before, guest.Sent);
        PortGuest.Until(
            () =>
            {
                guest.Turn(sends: false);
                return guest.Outstanding == 0 && guest.HasLast;
            },
            "the last frame did not come");
    }

    private static Process Start(string path)
    {
        var start = new ProcessStartInfo(Path.Combine(AppContext.BaseDirectory, "vfiopin")) { RedirectStandardError = true, RedirectStandardOutput = true };
        foreach (string word in (string[])["vhost-user-net", "--socket-path", path, "--forward", "io", "--page-size", "4KiB"])
        {
            start.ArgumentList.Add(word);
        }

        return Process.Start(start)!;
    }

    private static UnixSocket ConnectTo(string path, Process backend)
    {
        UnixSocket? socket = null;
        PortGuest.Until(
            () => backend.HasExited || (File.Exists(path) && (socket = UnixSocket.TryConnect(path, out _)) is not null), "the back-end does not listen");
        return socket ?? throw new InvalidOperationException($"the back-end ended: {backend.StandardError.ReadToEnd()}");
    }
}
