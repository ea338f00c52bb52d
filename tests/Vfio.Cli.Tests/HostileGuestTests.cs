using System.Diagnostics;
using Vfio.Linux;
using Vfio.Testing.VhostUser;
using Vfio.Virtio;

namespace Vfio.Cli.Tests;

/// <summary>The program itself, as a process of its own, with two guests on one poller.</summary>
[TestClass]
public sealed class HostileGuestTests : IDisposable
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(60);

    private readonly string _directory = Directory.CreateTempSubdirectory("vfiopin-hostile-").FullName;
    private readonly List<string> _lines = [];
    private readonly Process _program;

    public HostileGuestTests()
    {
        var start = new ProcessStartInfo(Path.Combine(AppContext.BaseDirectory, "vfiopin"))
        {
            ArgumentList =
            {
                "vhost-user-net", "--socket-path", PathOf("0"), "--socket-path", PathOf("1"), "--forward", "rxonly", "--page-size", "4KiB",
            },
            RedirectStandardError = true,
            RedirectStandardOutput = true,
        };
        _program = Process.Start(start)!;
        _program.ErrorDataReceived += (_, line) => Note(line.Data);
        _program.OutputDataReceived += (_, line) => Note(line.Data);
        _program.BeginErrorReadLine();
        _program.BeginOutputReadLine();
    }

    public void Dispose()
    {
        if (!_program.HasExited)
        {
            _program.Kill();
            _program.WaitForExit();
        }

        _program.Dispose();
        Directory.Delete(_directory, recursive: true);
    }

    [TestMethod]
    public void A_guest_that_takes_its_memory_away_loses_its_session_and_the_other_goes_on()
    {
        using IotlbGuest good = Connect("1", canShrink: false);
        Exchange(good);
        for (int round = 1; round <= 3; round++)
        {
            using (IotlbGuest bad = Connect("0", canShrink: true))
            {
                for (ulong i = 0; i < 200; i++)
                {
                    Assert.IsTrue(bad.Transmit.TryAdd([new DmaSegment(bad.Plain(i * 65536, 60_000), DeviceAccess.Read)], out _));
                }

                bad.Transmit.Publish();
                bad.Kick();
                bad.Region.Shrink(round % 2 == 0 ? IotlbGuest.RingBytes : 0);
                bad.Kick();
                Until(() => Count("memory of the front-end was gone") == round, "no line says what happened");
                Exchange(good);
            }
        }

        Assert.IsFalse(_program.HasExited);
    }

    [TestMethod]
    public void A_storm_of_kicks_holds_nobody_up()
    {
        using IotlbGuest good = Connect("1", canShrink: false);
        using IotlbGuest bad = Connect("0", canShrink: false);
        bool stop = false;
        var storm = new Thread(() =>
        {
            while (!Volatile.Read(ref stop))
            {
                bad.Kick();
            }
        });
        storm.Start();
        try
        {
            for (int i = 0; i < 300; i++)
            {
                Exchange(good);
            }

            Exchange(bad);
        }
        finally
        {
            Volatile.Write(ref stop, true);
            storm.Join();
        }
    }

    private string PathOf(string port) => Path.Combine(_directory, port);

    private IotlbGuest Connect(string port, bool canShrink)
    {
        UnixSocket? socket = null;
        Until(() => (socket = UnixSocket.TryConnect(PathOf(port), out _)) is not null, "the program does not listen");
        return new IotlbGuest(socket!, VirtioFeatures.Version1, 16 << 20, 256, hasIommu: false, canShrink: canShrink);
    }

    private void Exchange(IotlbGuest guest)
    {
        Assert.IsTrue(guest.Transmit.TryAdd([new DmaSegment(guest.Plain(0, 100), DeviceAccess.Read)], out _));
        guest.Transmit.Publish();
        guest.Kick();
        var completions = new Completion[1];
        Until(() => guest.Transmit.Reap(completions) == 1, "a frame is not taken");
    }

    private void Until(Func<bool> condition, string otherwise)
    {
        long begin = Stopwatch.GetTimestamp();
        while (!condition())
        {
            Assert.IsFalse(_program.HasExited, $"the program ended: {Lines()}");
            Assert.IsLessThan(Patience, Stopwatch.GetElapsedTime(begin), $"{otherwise}: {Lines()}");
            Thread.Yield();
        }
    }

    private int Count(string text)
    {
        lock (_lines)
        {
            return _lines.Count(l => l.Contains(text, StringComparison.Ordinal));
        }
    }

    private string Lines()
    {
        lock (_lines)
        {
            return string.Join('\n', _lines);
        }
    }

    private void Note(string? line)
    {
        lock (_lines)
        {
            _lines.Add(line ?? string.Empty);
        }
    }
}
