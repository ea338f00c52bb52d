using System.Globalization;

namespace Vfio.Service;

/// <summary>The groups of this machine, from <c>/etc/group</c>.</summary>
public static class GroupFile
{
    /// <summary>The number of a group.</summary>
    /// <param name="nameOrNumber">Its name, or its number.</param>
    /// <returns>The number, or null when there is no group of that name.</returns>
    public static uint? Find(string nameOrNumber)
    {
        if (uint.TryParse(nameOrNumber, NumberStyles.None, CultureInfo.InvariantCulture, out uint number))
        {
            return number;
        }

        // group(5): name:password:number:members
        foreach (string line in File.Exists("/etc/group") ? File.ReadLines("/etc/group") : [])
        {
            string[] fields = line.Split(':');
            if (fields.Length >= 3 && fields[0] == nameOrNumber
                && uint.TryParse(fields[2], NumberStyles.None, CultureInfo.InvariantCulture, out number))
            {
                return number;
            }
        }

        return null;
    }
}
