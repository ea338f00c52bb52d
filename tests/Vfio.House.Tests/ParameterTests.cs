using System.Reflection;

namespace Vfio.House.Tests;

/// <summary>No public method takes two raw integers of one type side by side: whoever swaps them is told by nobody. Values (records
/// and structs) may: their parameters are their members, and are known by name.</summary>
[TestClass]
public sealed class ParameterTests
{
    private static readonly string[] Libraries = ["Vfio.Linux", "Vfio", "Vfio.Virtio", "Vfio.VhostUser", "Vfio.Service"];

    private static readonly Type[] Raw =
        [typeof(byte), typeof(sbyte), typeof(short), typeof(ushort), typeof(int), typeof(uint), typeof(long), typeof(ulong), typeof(nint), typeof(nuint)];

    // Each with the reason why the two cannot be taken for one another.
    private static readonly Dictionary<string, string> Allowed = new()
    {
        ["Vfio.Linux.IKernel.Mmap"] = "mmap(2)'s own order, known to everybody",
        ["Vfio.Linux.LinuxKernel.Mmap"] = "as IKernel",
        ["Vfio.Linux.MemoryFile.Create"] = "the second is 0, 2 MiB or 1 GiB, else refused",
        ["Vfio.VhostUser.FrontendRegion..ctor"] = "as MemoryFile.Create, which it calls",
        ["Vfio.PinnedBuffer.Slice"] = "(start, length), as every Slice in .NET",
        ["Vfio.VfioRegion.Write64"] = "(offset, value), as the other widths, whose types differ",
    };

    [TestMethod]
    public void Integers_of_one_type_do_not_stand_side_by_side()
    {
        var found = new HashSet<string>();
        foreach (MethodBase method in Libraries.SelectMany(l => Assembly.Load(l).GetExportedTypes()).SelectMany(PublicMethods))
        {
            Type[] parameters = [.. method.GetParameters().Select(p => p.ParameterType)];
            for (int i = 1; i < parameters.Length; i++)
            {
                if (parameters[i] == parameters[i - 1] && Raw.Contains(parameters[i]))
                {
                    found.Add($"{method.DeclaringType!.FullName}.{method.Name}");
                }
            }
        }

        string[] wrong = [.. found.Where(f => !Allowed.ContainsKey(f)).Order(StringComparer.Ordinal)];
        Assert.IsEmpty(wrong, string.Join('\n', wrong));
        string[] stale = [.. Allowed.Keys.Where(a => !found.Contains(a))];
        Assert.IsEmpty(stale, $"allowed, but there is no such method any more: {string.Join(", ", stale)}");
    }

    private static IEnumerable<MethodBase> PublicMethods(Type type)
    {
        const BindingFlags Public = BindingFlags.Public | BindingFlags.Instance | BindingFlags.Static | BindingFlags.DeclaredOnly;
        return ((IEnumerable<MethodBase>)type.GetMethods(Public)).Concat(IsValue(type) ? [] : type.GetConstructors(Public));
    }

    // A record class has a copy method that no C# name can have.
    private static bool IsValue(Type type) => type.IsValueType || type.GetMethod("<Clone>$") is not null;
}
