using System.ComponentModel;
using System.Diagnostics;
using System.Globalization;
using System.Reflection;
using System.Reflection.Emit;
using System.Runtime.CompilerServices;
using System.Text;

namespace Vfio.Linux.Tests;

/// <summary>Turns structs and constants into C that asserts them, and lets the C compiler judge.</summary>
/// <remarks>The technique is that of Tmds.LibC's tests.</remarks>
internal sealed class CHeaderCheck
{
    // A file for each header: some of the kernel's and the C library's do not go together in one.
    private readonly Dictionary<string, StringBuilder> _files = [];

    /// <summary>Asserts a type that carries <see cref="HeaderAttribute"/>.</summary>
    /// <param name="type">A struct, or a class of constants.</param>
    /// <param name="name">The struct's name in C.</param>
    public void Add(Type type, string name)
    {
        string header = type.GetCustomAttribute<HeaderAttribute>()!.Path;
        if (type.IsValueType)
        {
            AddStruct(type, name, header);
        }
        else
        {
            foreach (FieldInfo constant in ConstantsOf(type))
            {
                AddConstant(constant.Name, constant.GetRawConstantValue()!, header);
            }
        }
    }

    public void AddConstant(string name, object value, string header)
    {
        string literal = value switch
        {
            ulong or uint or ushort or byte => Convert.ToUInt64(value, CultureInfo.InvariantCulture).ToString(CultureInfo.InvariantCulture) + "ULL",
            // The most negative number has no literal of its own; nothing here is that.
            _ => Convert.ToInt64(value, CultureInfo.InvariantCulture).ToString(CultureInfo.InvariantCulture) + "LL",
        };
        // Compared as 64 bits, and whether below zero: so -1 and 0xffffffff differ.
        Assert(header, $"(unsigned long long)({name}) == (unsigned long long)({literal})", $"{name} is {value}");
        Assert(header, $"(({name}) < 0) == (({literal}) < 0)", $"sign of {name}");
    }

    /// <summary>Compiles what was added.</summary>
    /// <returns>What the compiler said; empty when all of it holds.</returns>
    public string Compile()
    {
        DirectoryInfo directory = Directory.CreateTempSubdirectory("vfiopin-abi-");
        try
        {
            var start = new ProcessStartInfo("gcc")
            {
                ArgumentList = { "-std=gnu11", "-D_GNU_SOURCE", "-fsyntax-only", "-Werror", "-Wno-type-limits" },
                RedirectStandardError = true,
            };
            foreach ((string header, StringBuilder text) in _files)
            {
                string file = Path.Combine(directory.FullName, header.Replace('/', '_') + ".c");
                File.WriteAllText(file, text.ToString());
                start.ArgumentList.Add(file);
            }

            using Process gcc = Process.Start(start)!;
            string said = gcc.StandardError.ReadToEnd();
            gcc.WaitForExit();
            return gcc.ExitCode == 0 && said.Length == 0 ? string.Empty : $"gcc ended with {gcc.ExitCode}:\n{said}";
        }
        catch (Win32Exception e)
        {
            return $"gcc cannot be started ({e.Message}); install it with: tools/install gcc libc6-dev linux-libc-dev";
        }
        finally
        {
            directory.Delete(recursive: true);
        }
    }

    public static IEnumerable<FieldInfo> ConstantsOf(Type type) =>
        type.GetFields(BindingFlags.Static | BindingFlags.Public | BindingFlags.DeclaredOnly).Where(f => f.IsLiteral);

    private void AddStruct(Type type, string tag, string header)
    {
        string name = $"struct {tag}";
        int size = SizeOf(type);
        // The kernel appends fields to structures that carry their size; ours may be the older form.
        string relation = type.GetField("argsz") is null ? "==" : ">=";
        Assert(header, $"sizeof({name}) {relation} {size}", $"sizeof({name}) is {size}");
        foreach (FieldInfo field in type.GetFields(BindingFlags.Instance | BindingFlags.Public))
        {
            string member = $"((({name} *)0)->{field.Name})";
            int width = field.GetCustomAttribute<FixedBufferAttribute>() is { } buffer
                ? buffer.Length * SizeOf(buffer.ElementType)
                : SizeOf(field.FieldType);
            long offset = OffsetOf(type, field);
            Assert(header, $"offsetof({name}, {field.Name}) == {offset}", $"offset of {name}.{field.Name}");
            Assert(header, $"sizeof({member}) == {width}", $"size of {name}.{field.Name}");
            if (field.FieldType.IsPrimitive)
            {
                string sign = IsSigned(field.FieldType) ? "<" : ">";
                Assert(header, $"(__typeof__{member})-1 {sign} 0", $"sign of {name}.{field.Name}");
            }
        }
    }

    private static bool IsSigned(Type type) =>
        type == typeof(int) || type == typeof(long) || type == typeof(short) || type == typeof(sbyte) || type == typeof(nint);

    // Where the runtime has the field, not where marshalling would put it.
    private static long OffsetOf(Type type, FieldInfo field)
    {
        var method = new DynamicMethod("OffsetOf", typeof(long), [], typeof(CHeaderCheck).Module, skipVisibility: true);
        ILGenerator code = method.GetILGenerator();
        LocalBuilder local = code.DeclareLocal(type);
        code.Emit(OpCodes.Ldloca, local);
        code.Emit(OpCodes.Ldflda, field);
        code.Emit(OpCodes.Conv_U);
        code.Emit(OpCodes.Ldloca, local);
        code.Emit(OpCodes.Conv_U);
        code.Emit(OpCodes.Sub);
        code.Emit(OpCodes.Conv_I8);
        code.Emit(OpCodes.Ret);
        return (long)method.Invoke(null, null)!;
    }

    private static int SizeOf(Type type) => type.IsPointer
        ? IntPtr.Size
        : (int)typeof(Unsafe).GetMethod(nameof(Unsafe.SizeOf))!.MakeGenericMethod(type).Invoke(null, null)!;

    private void Assert(string header, string condition, string message)
    {
        if (!_files.TryGetValue(header, out StringBuilder? text))
        {
            text = new StringBuilder().AppendLine("#include <stddef.h>").AppendLine(CultureInfo.InvariantCulture, $"#include <{header}>");
            _files.Add(header, text);
        }

        text.AppendLine(CultureInfo.InvariantCulture, $"_Static_assert({condition}, \"{message}\");");
    }
}
