using System.Globalization;
using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Vfio.Linux.Tests;

/// <summary>Proves every kernel and C library struct and constant against this machine's headers.</summary>
[TestClass]
public sealed class AbiTests
{
    private static readonly Type[] Types = typeof(IKernel).Assembly.GetTypes();

    [TestMethod]
    public void Structs_and_constants_are_those_of_the_headers()
    {
        var check = new CHeaderCheck();
        Type[] covered = [.. Types.Where(t => t.IsDefined(typeof(HeaderAttribute)))];
        Assert.IsGreaterThan(20, covered.Length);
        foreach (Type type in covered)
        {
            check.Add(type, type.Name);
        }

        Assert.AreEqual(string.Empty, check.Compile());
    }

    [TestMethod]
    public void Errors_have_the_numbers_of_errno_h()
    {
        var check = new CHeaderCheck();
        foreach (Errno errno in Enum.GetValues<Errno>().Where(e => e != Errno.None))
        {
            check.AddConstant(errno.ToString(), (int)errno, "errno.h");
        }

        Assert.AreEqual(string.Empty, check.Compile());
    }

    [TestMethod]
    public void Nothing_of_the_kernel_is_unchecked()
    {
        // A struct with public fields or a class of public constants is a mirror of C, unless the compiler made it.
        string[] unchecked_ = [.. Types
            .Where(t => !t.IsPublic && !t.IsNested && !t.IsDefined(typeof(HeaderAttribute)) && !t.IsDefined(typeof(CompilerGeneratedAttribute))
                && (t is { IsValueType: true, IsEnum: false }
                    ? t.GetFields(BindingFlags.Instance | BindingFlags.Public).Length > 0
                    : t is { IsAbstract: true, IsSealed: true } && CHeaderCheck.ConstantsOf(t).Any()))
            .Select(t => t.Name)];
        Assert.IsEmpty(unchecked_, $"no [Header]: {string.Join(", ", unchecked_)}");
    }

    [TestMethod]
    [DataRow(typeof(WrongValue), "", "wrong value")]
    [DataRow(typeof(UnknownName), "", "unknown name")]
    [DataRow(typeof(UnknownHeader), "", "unknown header")]
    [DataRow(typeof(Misordered), "pollfd", "wrong order of fields")]
    [DataRow(typeof(WrongSign), "iovec", "wrong sign of a field")]
    [DataRow(typeof(Incomplete), "ucred", "a field left out")]
    public void Check_catches(Type type, string name, string mistake)
    {
        ArgumentNullException.ThrowIfNull(type);
        var check = new CHeaderCheck();
        check.Add(type, name);
        Assert.AreNotEqual(string.Empty, check.Compile(), mistake);
    }

    [TestMethod]
    public void Check_catches_a_sign()
    {
        var right = new CHeaderCheck();
        right.AddConstant("AT_FDCWD", -100, "fcntl.h");
        Assert.AreEqual(string.Empty, right.Compile());
        var wrong = new CHeaderCheck();
        wrong.AddConstant("AT_FDCWD", uint.Parse("4294967196", CultureInfo.InvariantCulture), "fcntl.h");
        Assert.AreNotEqual(string.Empty, wrong.Compile());
    }

    [Header("fcntl.h")]
    private static class WrongValue
    {
        public const int O_CREAT = 0x41;
    }

    [Header("fcntl.h")]
    private static class UnknownName
    {
        public const int O_NOSUCHFLAG = 1;
    }

    [Header("linux/no-such-header.h")]
    private static class UnknownHeader
    {
        public const int O_CREAT = 0x40;
    }

    [Header("poll.h")]
    [StructLayout(LayoutKind.Sequential)]
    private struct Misordered
    {
        public int fd;
        public short revents;
        public short events;
    }

    [Header("sys/uio.h")]
    [StructLayout(LayoutKind.Sequential)]
    private unsafe struct WrongSign
    {
        public void* iov_base;
        public long iov_len;
    }

    [Header("sys/socket.h")]
    [StructLayout(LayoutKind.Sequential)]
    private struct Incomplete
    {
        public int pid;
        public uint uid;
    }
}
