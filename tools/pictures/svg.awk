# Draws what a terminal was sent as an SVG: text, colours and bold (ECMA-48 SGR); every other control sequence is left out.
# Works on bytes (LC_ALL=C): a UTF-8 character is counted by its first byte.
BEGIN {
    split("#000000 #cd3131 #0dbc79 #e5e510 #2472c8 #bc3fbc #11a8cd #cccccc #666666 #f14c4c #23d18b #f5f543 #3b8eea #d670d6 #29b8db #ffffff", basic, " ")
    plain = "#d4d4d4"
    width = 8.4
    height = 18
}

function cells(text) {
    gsub(/[\200-\277]/, "", text)
    return length(text)
}

function escaped(text) {
    gsub(/&/, "\\&amp;", text)
    gsub(/</, "\\&lt;", text)
    gsub(/>/, "\\&gt;", text)
    return text
}

# The colours of the 256 that are no basic ones: a cube of 6, and greys.
function palette(n, level) {
    if (n < 16)
        return basic[n + 1]
    if (n >= 232) {
        level = 8 + 10 * (n - 232)
        return sprintf("#%02x%02x%02x", level, level, level)
    }
    n -= 16
    return sprintf("#%02x%02x%02x", cube(int(n / 36)), cube(int(n / 6) % 6), cube(n % 6))
}

function cube(n) {
    return n == 0 ? 0 : 55 + 40 * n
}

function sgr(codes, count, i, c) {
    count = split(codes == "" ? "0" : codes, code, ";")
    for (i = 1; i <= count; i++) {
        c = code[i] + 0
        if (c == 0) { color = plain; bold = 0 }
        else if (c == 1) bold = 1
        else if (c == 22) bold = 0
        else if (c == 39) color = plain
        else if (c >= 30 && c <= 37) color = basic[c - 29]
        else if (c >= 90 && c <= 97) color = basic[c - 81]
        else if (c == 38 && code[i + 1] == 5) { color = palette(code[i + 2] + 0); i += 2 }
        else if (c == 38 && code[i + 1] == 2) { color = sprintf("#%02x%02x%02x", code[i + 2], code[i + 3], code[i + 4]); i += 4 }
    }
}

# A run of one colour takes exactly its cells, whatever font shows it.
function run(text, n) {
    # A viewer may drop spaces at a text's edges.
    match(text, /^ */)
    column += RLENGTH
    text = substr(text, RLENGTH + 1)
    n = cells(text)
    if (n > 0)
        body = body sprintf("<text x=\"%.1f\" y=\"%d\" textLength=\"%.1f\" fill=\"%s\"%s>%s</text>\n", \
            12 + column * width, 10 + NR * height, n * width, color, bold ? " font-weight=\"bold\"" : "", escaped(text))
    column += n
    if (column > widest)
        widest = column
}

{
    column = 0
    if (NR == 1)
        color = plain
    rest = $0
    while (match(rest, /\033\[[0-9;?]*[A-Za-z]/)) {
        # run matches too, and there is one RSTART for all.
        start = RSTART
        count = RLENGTH
        if (start > 1)
            run(substr(rest, 1, start - 1))
        if (substr(rest, start + count - 1, 1) == "m")
            sgr(substr(rest, start + 2, count - 3))
        rest = substr(rest, start + count)
    }
    sub(/ +$/, "", rest)
    if (rest != "")
        run(rest)
}

END {
    w = int(24 + widest * width + 0.5)
    h = 24 + NR * height
    printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\">\n", w, h, w, h
    printf "<rect width=\"%d\" height=\"%d\" rx=\"6\" fill=\"#1e1e1e\"/>\n", w, h
    printf "<g font-family=\"ui-monospace, DejaVu Sans Mono, Menlo, Consolas, monospace\" font-size=\"14\" xml:space=\"preserve\" style=\"white-space: pre\">\n"
    printf "%s</g>\n</svg>\n", body
}
