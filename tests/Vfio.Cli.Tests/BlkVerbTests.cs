using System.Security.Cryptography;
using System.Text.Json;
using Vfio.Linux;
using Vfio.Testing;

namespace Vfio.Cli.Tests;

[TestClass]
public sealed class BlkVerbTests : IDisposable
{
    private const string Disk = "0000:00:06.0";
    private const int MiB = 1 << 20;

    private static readonly string[] Create = ["pool", "create", "demo", "--size", "4MiB", "--page-size", "4KiB", "--device", Disk];

    private readonly CliRig _rig = new();
    private readonly SimVirtioBlock _disk;

    public BlkVerbTests()
    {
        _disk = _rig.Host.Add(new SimVirtioBlock(PciAddress.Parse(Disk), new SimVirtioBlockOptions { Sectors = 2 * MiB / 512 }), 6);
        Random.Shared.NextBytes(_disk.Medium);
    }

    private string Sum => Convert.ToHexStringLower(SHA256.HashData(_disk.Medium));

    public void Dispose()
    {
        _rig.StopDaemon();
        _rig.Host.Kernel.AssertNoFaults();
        _rig.Host.Kernel.AssertNothingLeft();
        _rig.Dispose();
    }

    [TestMethod]
    [DataRow(false)]
    [DataRow(true)]
    public void The_whole_disk_is_read_with_its_sum(bool daemon)
    {
        if (daemon)
        {
            _rig.WithDaemon();
        }

        JsonElement info = _rig.RunJson("blk", "info", Disk);
        Assert.AreEqual(2 * MiB, info.GetProperty("bytes").GetInt32());
        JsonElement read = _rig.RunJson("blk", "read", Disk, "--sha256");
        Assert.AreEqual(Sum, read.GetProperty("sha256").GetString());
        Assert.AreEqual(2 * MiB, read.GetProperty("bytes").GetInt32());
        Assert.AreEqual(JsonValueKind.Null, read.GetProperty("pool").ValueKind);
        Assert.IsEmpty(_rig.Host.Kernel.Mappings);
    }

    [TestMethod]
    public void With_a_pool_the_data_goes_through_it_and_its_record_is_exact()
    {
        _rig.WithDaemon();
        _rig.RunJson(Create);
        JsonElement read = _rig.RunJson("blk", "read", Disk, "--pool", "demo", "--sha256", "--queue-depth", "3", "--interrupt");
        Assert.AreEqual(Sum, read.GetProperty("sha256").GetString());
        JsonElement dirty = _rig.RunJson("dirty", "show", "demo");
        Assert.AreEqual("Exact", dirty.GetProperty("precision").GetString());
        // Three pieces of 128 KiB, and the pages of the ring.
        Assert.IsInRange(96, 110, dirty.GetProperty("dirtyPages").GetInt32());
        Assert.AreEqual(0, dirty.GetProperty("inFlightPages").GetInt32());
        Assert.AreEqual(0, _rig.RunJson("pool", "show", "demo").GetProperty("bytesInUse").GetInt32());
    }

    [TestMethod]
    public void A_part_goes_to_a_file_and_to_standard_output()
    {
        string path = _rig.PathOf("part");
        string[] part = ["blk", "read", Disk, "--offset", "64KiB", "--length", "200KiB"];
        Assert.AreEqual(0, _rig.Run([.. part, "--out", path]).Code);
        Assert.IsTrue(_disk.Medium.Slice(64 << 10, 200 << 10).SequenceEqual(File.ReadAllBytes(path)));

        using var output = new MemoryStream();
        CliOutcome outcome = _rig.Run([.. part, "--out", "-"], new CliStreams { Output = output });
        Assert.AreEqual(0, outcome.Code, outcome.Error);
        Assert.AreEqual(string.Empty, outcome.Output);
        Assert.IsTrue(_disk.Medium.Slice(64 << 10, 200 << 10).SequenceEqual(output.ToArray()));
    }

    [TestMethod]
    [DataRow(false)]
    [DataRow(true)]
    public void A_file_and_standard_input_are_written(bool daemon)
    {
        if (daemon)
        {
            _rig.WithDaemon();
        }

        byte[] data = RandomNumberGenerator.GetBytes(300 << 10);
        File.WriteAllBytes(_rig.PathOf("data"), data);
        Assert.AreEqual(0, _rig.Run("blk", "write", Disk, "--in", _rig.PathOf("data"), "--offset", "1MiB").Code);
        Assert.IsTrue(_disk.Medium.Slice(MiB, data.Length).SequenceEqual(data));
        using var input = new MemoryStream(data);
        CliOutcome outcome = _rig.Run(["blk", "write", Disk, "--in", "-", "--length", "300KiB"], new CliStreams { Input = input });
        Assert.AreEqual(0, outcome.Code, outcome.Error);
        Assert.IsTrue(_disk.Medium[..data.Length].SequenceEqual(data));
    }

    [TestMethod]
    public void An_input_that_is_closed_under_its_copying_thread_fails_the_write_only()
    {
        var input = new MemoryStream(new byte[4096]);
        input.Dispose();
        CliOutcome outcome = _rig.Run(["blk", "write", Disk, "--in", "-", "--length", "4KiB"], new CliStreams { Input = input });
        Assert.AreEqual(1, outcome.Code, outcome.Error);
    }

    [TestMethod]
    public void Input_that_ends_early_is_an_error()
    {
        using var input = new MemoryStream(new byte[1000]);
        CliOutcome outcome = _rig.Run(["blk", "write", Disk, "--in", "-", "--length", "4KiB"], new CliStreams { Input = input });
        Assert.AreEqual(1, outcome.Code);
        StringAssert.Contains(outcome.Error, "the input ended before the length that was told", StringComparison.Ordinal);
    }

    [TestMethod]
    [DataRow("1MiB", "2MiB", "the device ends at 2097152 bytes")]
    [DataRow("3MiB", "512", "the device ends at 2097152 bytes")]
    [DataRow("100", "512", "whole blocks of 512 bytes")]
    [DataRow("0", "100", "whole blocks of 512 bytes")]
    public void A_range_that_is_not_on_the_device_changes_nothing(string offset, string length, string cause)
    {
        string path = _rig.PathOf("kept");
        File.WriteAllText(path, "old");
        string local = _rig.RunFailing("blk", "read", Disk, "--offset", offset, "--length", length, "--out", path);
        StringAssert.Contains(local, cause, StringComparison.Ordinal);
        Assert.AreEqual("old", File.ReadAllText(path));
        _rig.WithDaemon();
        Assert.AreEqual(local, _rig.RunFailing("blk", "read", Disk, "--offset", offset, "--length", length, "--out", path));
    }

    [TestMethod]
    public void A_device_that_fails_a_request_is_named_with_the_sectors_in_both_modes()
    {
        _disk.Options.Answer = (_, sector) => sector >= 1024 ? (byte)1 : null;
        string local = _rig.RunFailing("blk", "read", Disk, "--sha256");
        StringAssert.Contains(local, "virtio 0000:00:06.0: read of sectors 1024-", StringComparison.Ordinal);
        _rig.WithDaemon();
        Assert.AreEqual(local, _rig.RunFailing("blk", "read", Disk, "--sha256"));
        _disk.Options.Answer = null;
        Assert.AreEqual(Sum, _rig.RunJson("blk", "read", Disk, "--sha256").GetProperty("sha256").GetString());
    }

    [TestMethod]
    [DataRow(false)]
    [DataRow(true)]
    public void Interrupted_while_nobody_takes_the_data_it_ends_and_gives_everything_back(bool daemon)
    {
        if (daemon)
        {
            _rig.WithDaemon();
            _rig.RunJson(Create);
        }

        using var stuck = new StuckStream();
        using var interrupt = new CancellationTokenSource();
        Task<CliOutcome> run = Task.Run(() => _rig.Run(
            ["blk", "read", Disk, "--out", "-"], new CliStreams { Output = stuck, Cancellation = interrupt.Token }));
        stuck.Reached.Wait();
        interrupt.Cancel();
        Assert.IsTrue(run.Wait(TimeSpan.FromSeconds(60)), "it did not end");
        CliOutcome outcome = run.Result;
        stuck.LetGo.Set();
        Assert.AreEqual(1, outcome.Code);
        StringAssert.Contains(outcome.Error, "interrupted", StringComparison.Ordinal);
        if (daemon)
        {
            Assert.AreEqual(0, _rig.RunJson("pool", "show", "demo").GetProperty("bytesInUse").GetInt32());
            Assert.AreEqual(Sum, _rig.RunJson("blk", "read", Disk, "--pool", "demo", "--sha256").GetProperty("sha256").GetString());
        }
    }

    [TestMethod]
    [DataRow(false)]
    [DataRow(true)]
    public void A_pipe_takes_and_gives_data_as_a_stream(bool daemon)
    {
        if (daemon)
        {
            _rig.WithDaemon();
        }

        string pipe = _rig.MakePipe("pipe");
        Task<byte[]> taken = Task.Run(() => File.ReadAllBytes(pipe));
        CliOutcome read = _rig.Run("blk", "read", Disk, "--offset", "64KiB", "--length", "200KiB", "--out", pipe);
        Assert.AreEqual(0, read.Code, read.Error);
        Assert.IsTrue(_disk.Medium.Slice(64 << 10, 200 << 10).SequenceEqual(taken.Result));
        Assert.IsTrue(FileKinds.Of(pipe) == FileKind.Pipe, "it is a pipe still");

        byte[] data = RandomNumberGenerator.GetBytes(300 << 10);
        Task given = Task.Run(() =>
        {
            using var stream = new FileStream(pipe, FileMode.Open, FileAccess.Write, FileShare.ReadWrite);
            stream.Write(data);
        });
        CliOutcome written = _rig.Run("blk", "write", Disk, "--in", pipe, "--length", "300KiB");
        Assert.AreEqual(0, written.Code, written.Error);
        given.Wait();
        Assert.IsTrue(_disk.Medium[..data.Length].SequenceEqual(data));
    }

    [TestMethod]
    public void A_pipe_whose_length_nobody_told_is_a_wrong_command_line()
    {
        CliOutcome outcome = _rig.Run("blk", "write", Disk, "--in", _rig.MakePipe("pipe"));
        Assert.AreEqual(2, outcome.Code);
        StringAssert.Contains(outcome.Error, "tell it with --length", StringComparison.Ordinal);
    }

    [TestMethod]
    public void A_link_keeps_naming_its_file_and_a_directory_is_refused()
    {
        string path = _rig.PathOf("file");
        File.WriteAllText(path, "old");
        File.CreateSymbolicLink(_rig.PathOf("link"), path);
        Assert.AreEqual(0, _rig.Run("blk", "read", Disk, "--length", "4KiB", "--out", _rig.PathOf("link")).Code);
        Assert.AreEqual(path, new FileInfo(_rig.PathOf("link")).LinkTarget);
        Assert.IsTrue(_disk.Medium[..4096].SequenceEqual(File.ReadAllBytes(path)));

        string directory = Path.GetDirectoryName(path)!;
        StringAssert.Contains(_rig.RunFailing("blk", "read", Disk, "--out", directory), "it is a directory", StringComparison.Ordinal);
        StringAssert.Contains(_rig.RunFailing("blk", "write", Disk, "--length", "512", "--in", directory), "it is a directory", StringComparison.Ordinal);
    }

    [TestMethod]
    public void A_device_without_places_is_written_as_a_stream()
    {
        // A terminal of its own; nobody reads it, and its buffer holds the two sectors.
        using var master = new FileStream("/dev/ptmx", FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite, bufferSize: 0);
        Assert.IsFalse(master.CanSeek);
        Assert.AreEqual(0, _rig.Run("blk", "read", Disk, "--length", "512", "--out", "/dev/ptmx").Code);
        Assert.AreEqual(0, _rig.Run("blk", "read", Disk, "--length", "512", "--out", "/dev/null").Code);
    }

    // A reader that stops reading.
    private sealed class StuckStream : Stream
    {
        public ManualResetEventSlim Reached { get; } = new();

        public ManualResetEventSlim LetGo { get; } = new();

        public override bool CanRead => false;

        public override bool CanSeek => false;

        public override bool CanWrite => true;

        public override long Length => throw new NotSupportedException();

        public override long Position { get => throw new NotSupportedException(); set => throw new NotSupportedException(); }

        public override void Flush()
        {
        }

        public override int Read(byte[] buffer, int offset, int count) => throw new NotSupportedException();

        public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

        public override void SetLength(long value) => throw new NotSupportedException();

        public override void Write(byte[] buffer, int offset, int count)
        {
            Reached.Set();
            LetGo.Wait();
        }
    }
}
