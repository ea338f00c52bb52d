using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using Vfio.Linux;

namespace Vfio.Testing;

/// <summary>A directory that behaves as the PCI part of sysfs: drivers, groups, driver_override, and files (named pipes) whose
/// writing unbinds and probes, as the kernel does it (<c>drivers/base/bus.c</c>, <c>drivers/pci/pci-driver.c</c>).</summary>
public sealed partial class PciSysfsTree : IDisposable
{
    private const int WordLength = 12;
    private const string EndWord = "end-of-tree.";

    private readonly List<(string Path, Thread Thread)> _pipes = [];
    private readonly Dictionary<string, string> _defaultDrivers = [];
    private readonly HashSet<string> _stubborn = [];
    private readonly HashSet<string> _refused = [];
    private readonly Lock _gate = new();

    public PciSysfsTree()
    {
        Root = Directory.CreateTempSubdirectory("vfiopin-sysfs-").FullName;
        Directory.CreateDirectory(Path.Combine(Root, "sys/kernel/iommu_groups"));
        Directory.CreateDirectory(Path.Combine(Root, "sys/bus/pci/devices"));
        Directory.CreateDirectory(Path.Combine(Root, "sys/class/block"));
        Directory.CreateDirectory(Path.Combine(Root, "proc/self"));
        Pipe("sys/bus/pci/drivers_probe", Probe);
        Sysfs = new Sysfs(Root);
    }

    public string Root { get; }

    public Sysfs Sysfs { get; }

    /// <summary>Loads a driver.</summary>
    public void AddDriver(string name)
    {
        Directory.CreateDirectory(Path.Combine(Root, $"sys/bus/pci/drivers/{name}"));
        Pipe($"sys/bus/pci/drivers/{name}/unbind", Unbind);
    }

    /// <summary>A driver that never lets go, as one whose device is in use.</summary>
    public void MakeStubborn(string driver) => Locked(() => _stubborn.Add(driver));

    /// <summary>A driver that takes no device any more, as one whose probe fails.</summary>
    public void MakeRefuse(string driver) => Locked(() => _refused.Add(driver));

    /// <summary>Plugs a device in, with the driver that the kernel gives it.</summary>
    public PciAddress AddDevice(
        string address, int? group, string? driver, ushort vendor = 0x1af4, ushort device = 0x1042, int classCode = 0x010000)
    {
        string directory = Path.Combine(Root, $"sys/bus/pci/devices/{address}");
        Directory.CreateDirectory(directory);
        void Attribute(string name, string text) => File.WriteAllText(Path.Combine(directory, name), text + "\n");
        Attribute("vendor", string.Create(CultureInfo.InvariantCulture, $"0x{vendor:x4}"));
        Attribute("device", string.Create(CultureInfo.InvariantCulture, $"0x{device:x4}"));
        Attribute("subsystem_device", "0x1100");
        Attribute("class", string.Create(CultureInfo.InvariantCulture, $"0x{classCode:x6}"));
        Attribute("numa_node", "-1");
        Attribute("driver_override", "(null)");
        if (group is int number)
        {
            string members = Path.Combine(Root, $"sys/kernel/iommu_groups/{number}/devices");
            Directory.CreateDirectory(members);
            File.CreateSymbolicLink(Path.Combine(members, address), directory);
            File.CreateSymbolicLink(Path.Combine(directory, "iommu_group"), Path.GetDirectoryName(members)!);
        }

        if (driver is not null)
        {
            Locked(() => _defaultDrivers[address] = driver);
            SetDriver(address, driver);
        }

        return PciAddress.Parse(address);
    }

    public string? DriverOf(PciAddress address) => Sysfs.TryReadLinkName($"/sys/bus/pci/devices/{address}/driver");

    public string? OverrideOf(PciAddress address) => Sysfs.TryRead($"/sys/bus/pci/devices/{address}/driver_override");

    /// <summary>A file of the tree, such as <c>proc/self/mountinfo</c>.</summary>
    public void WriteFile(string path, string text)
    {
        string file = Path.Combine(Root, path);
        Directory.CreateDirectory(Path.GetDirectoryName(file)!);
        File.WriteAllText(file, text);
    }

    /// <summary>A link of the tree, such as <c>proc/77/fd/3</c>.</summary>
    public void Link(string path, string target)
    {
        string file = Path.Combine(Root, path);
        Directory.CreateDirectory(Path.GetDirectoryName(file)!);
        File.CreateSymbolicLink(file, target);
    }

    public void Dispose()
    {
        foreach ((string path, Thread thread) in _pipes)
        {
            File.WriteAllText(path, EndWord);
            thread.Join();
        }

        Directory.Delete(Root, recursive: true);
    }

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    [DefaultDllImportSearchPaths(DllImportSearchPath.SafeDirectories)]
    private static partial int mkfifo(string path, uint mode);

    // An address is 12 bytes, so that words need no end mark; the reader holds the pipe open both ways and so never sees its end.
    private void Pipe(string path, Action<string> written)
    {
        string file = Path.Combine(Root, path);
        if (mkfifo(file, 0x1b6) != 0)
        {
            throw new IOException($"mkfifo {file}: errno {Marshal.GetLastPInvokeError()}");
        }

        var thread = new Thread(() =>
        {
            using var stream = new FileStream(file, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite, 0);
            byte[] word = new byte[WordLength];
            while (true)
            {
                stream.ReadExactly(word);
                string text = Encoding.ASCII.GetString(word);
                if (text == EndWord)
                {
                    return;
                }

                Locked(() => written(text));
            }
        })
        { IsBackground = true, Name = path };
        thread.Start();
        _pipes.Add((file, thread));
    }

    private void Unbind(string address)
    {
        string link = Path.Combine(Root, $"sys/bus/pci/devices/{address}/driver");
        if (Sysfs.TryReadLinkName($"/sys/bus/pci/devices/{address}/driver") is string driver && !_stubborn.Contains(driver))
        {
            File.Delete(link);
        }
    }

    private void Probe(string address)
    {
        if (File.Exists(Path.Combine(Root, $"sys/bus/pci/devices/{address}/driver")))
        {
            return;
        }

        // drivers/pci/pci-driver.c, pci_match_device: with an override only the driver of that name matches.
        string? wanted = Sysfs.TryRead($"/sys/bus/pci/devices/{address}/driver_override");
        string? driver = wanted is null or "" or "(null)" ? _defaultDrivers.GetValueOrDefault(address) : wanted;
        if (driver is not null && !_refused.Contains(driver) && Sysfs.Exists($"/sys/bus/pci/drivers/{driver}"))
        {
            SetDriver(address, driver);
        }
    }

    private void SetDriver(string address, string driver)
    {
        string directory = Path.Combine(Root, $"sys/bus/pci/devices/{address}");
        File.CreateSymbolicLink(Path.Combine(directory, "driver"), Path.Combine(Root, $"sys/bus/pci/drivers/{driver}"));
    }

    private void Locked(Action action)
    {
        lock (_gate)
        {
            action();
        }
    }
}
