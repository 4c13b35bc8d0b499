/*
 * report_html.c: the page: a head with its style, tiles with the sums, a drawing of the lengths, tables.
 *
 * Invariants: every text from outside goes through put_text; everything else is numbers and this file's own
 * words.
 */
#include "dataloader/report_html.h"

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

enum { MOST_WORDS = 200, CHART_WIDTH = 720, CHART_HEIGHT = 220, CHART_TOP = 18, CHART_BOTTOM = 38 };

static const char style[] =
    ":root{color-scheme:light "
    "dark;--bg:#fbfbfd;--card:#fff;--ink:#1d1d22;--soft:#6a6a76;--line:#e6e6ec;--accent:#3d6fe0;"
    "--accent2:#12a594;--warn:#b4540a;--warnbg:#fdf1e3;--ok:#1a7f4b;--track:#eef0f6}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#131316;--card:#1c1c21;--ink:#ececf1;--soft:#9a9aa8;--line:"
    "#2e2e36;"
    "--accent:#7aa2ff;--accent2:#3fd0bd;--warn:#ffb26b;--warnbg:#33241a;--ok:#5fd08f;--track:#2a2a32}}\n"
    "*{box-sizing:border-box}\n"
    "body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.55 system-ui,-apple-system,\"Segoe "
    "UI\",Roboto,"
    "\"Noto Sans\",\"Noto Sans CJK SC\",\"PingFang SC\",\"Microsoft YaHei\",sans-serif}\n"
    "main{max-width:960px;margin:0 auto;padding:40px 20px 64px}\n"
    "h1{font-size:28px;line-height:1.2;margin:0 0 4px;letter-spacing:-.01em}\n"
    "h2{font-size:19px;margin:44px 0 12px;letter-spacing:-.005em}\n"
    "h3{font-size:15px;margin:22px 0 8px}\n"
    "p{margin:8px 0}.soft{color:var(--soft)}\n"
    ".part{margin-top:56px;padding-top:8px;border-top:2px solid var(--line)}\n"
    ".tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:20px 0}\n"
    ".tile,.card{background:var(--card);border:1px solid var(--line);border-radius:12px}\n"
    ".tile{padding:14px 16px}.tile b{display:block;font-size:24px;font-weight:650;line-height:1.25;"
    "font-variant-numeric:tabular-nums}.tile span{color:var(--soft);font-size:13px}\n"
    ".card{padding:4px 0;overflow-x:auto}.scroll{max-height:340px;overflow:auto;padding-top:0}"
    ".scroll th{position:sticky;top:0;background:var(--card)}.chart{padding:16px 16px 8px}\n"
    "svg{display:block;width:100%;height:auto}svg text{fill:var(--soft);font-size:11px}svg "
    ".bar{fill:var(--accent)}"
    "svg.second .bar{fill:var(--accent2)}svg line{stroke:var(--line)}\n"
    "table{border-collapse:collapse;width:100%;font-size:14px}\n"
    "th{text-align:left;font-weight:600;color:var(--soft);font-size:12.5px;padding:8px "
    "16px;white-space:nowrap}\n"
    "td{padding:8px 16px;border-top:1px solid var(--line);vertical-align:top}\n"
    "td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}\n"
    "td.what{white-space:nowrap;font-weight:550}\n"
    ".places{font:12.5px/1.7 ui-monospace,\"SF Mono\",Menlo,Consolas,\"Noto Sans Mono CJK SC\",monospace;"
    "color:var(--soft);overflow-wrap:anywhere}\n"
    ".track{background:var(--track);border-radius:3px;height:7px;min-width:80px;margin-top:8px;overflow:"
    "hidden}"
    ".track i{display:block;height:100%;background:var(--accent);border-radius:3px}\n"
    ".good{color:var(--ok)}.note{background:var(--warnbg);color:var(--warn);border-radius:10px;padding:10px "
    "14px}\n"
    "details{display:inline}summary{cursor:pointer;color:var(--accent);display:inline}\n"
    "footer{margin-top:56px;color:var(--soft);font-size:13px}\n"
    "@media print{body{background:#fff}.scroll{max-height:none}.card,.tile{break-inside:avoid}}\n";

/* ---- text and numbers ---- */

/* Escaped for text and for attributes; what is not UTF-8 or a control character becomes U+FFFD. */
static void put_text(struct strbuf *out, const char *text)
{
    size_t length = strlen(text), step;
    uint32_t character;
    for (size_t i = 0; i < length; i += step) {
        step = utf8_read(&character, text + i, length - i);
        if (step == 0 || character < 0x20 || (character >= 0x7F && character < 0xA0) ||
            (character >= 0x202A && character <= 0x202E) || (character >= 0x2066 && character <= 0x2069)) {
            strbuf_puts(
                out,
                "\xEF\xBF\xBD"); /* signs that turn the direction of text would move what stands beside */
            if (step == 0) step = 1;
            continue;
        }
        switch (character) {
        case '&':
            strbuf_puts(out, "&amp;");
            break;
        case '<':
            strbuf_puts(out, "&lt;");
            break;
        case '>':
            strbuf_puts(out, "&gt;");
            break;
        case '"':
            strbuf_puts(out, "&quot;");
            break;
        case '\'':
            strbuf_puts(out, "&#39;");
            break;
        default:
            strbuf_add(out, text + i, step);
        }
    }
}

static double share(int64_t part, int64_t whole)
{
    return whole > 0 ? 100.0 * (double)part / (double)whole : 0;
}

static void put_number_cell(struct strbuf *out, int64_t number)
{
    strbuf_puts(out, "<td class=n>");
    length_histogram_number(out, number);
    strbuf_puts(out, "</td>");
}

static void put_tile(struct strbuf *out, int64_t number, const char *label)
{
    strbuf_puts(out, "<div class=tile><b>");
    length_histogram_number(out, number);
    strbuf_printf(out, "</b><span>%s</span></div>\n", label);
}

static void put_share_tile(struct strbuf *out, int64_t part, int64_t whole, const char *label)
{
    strbuf_printf(out, "<div class=tile><b>%.1f&thinsp;%%</b><span>%s</span></div>\n", share(part, whole),
                  label);
}

/* ---- places ---- */

static void put_place(struct strbuf *out, const struct data_report *report, const struct report_place *place)
{
    bool known = report && place->file >= 0 && place->file < report->n_files;
    put_text(out, known ? report->file[place->file].name : "?");
    strbuf_printf(out, ":%lld", (long long)place->line);
}

/* Places of one file after another are written a.jsonl:3, 17, 20. The first few are open, the rest unfolds.
 */
static void put_places(struct strbuf *out, const struct data_report *report, const struct report_place *first,
                       int32_t n, int64_t rows)
{
    enum { OPEN = 6 };
    strbuf_puts(out, "<td class=places>");
    for (int32_t i = 0; i < n; i++) {
        bool fold = i == OPEN && n > OPEN + 1;
        if (fold)
            strbuf_printf(out, " <details><summary>%d more</summary> ", n - OPEN);
        else if (i > 0)
            strbuf_puts(out, ", ");
        if (i > 0 && !fold && first[i].file == first[i - 1].file)
            strbuf_printf(out, "%lld", (long long)first[i].line);
        else
            put_place(out, report, &first[i]);
    }
    if (rows > n) strbuf_puts(out, ", …");
    if (n > OPEN + 1) strbuf_puts(out, "</details>");
    strbuf_puts(out, "</td>");
}

static void put_pairs(struct strbuf *out, const struct data_report *report, const struct data_report *of,
                      const struct report_pair *pairs, int32_t n, int32_t n_exact)
{
    for (int32_t i = 0; i < n; i++) {
        bool exact = i < n_exact;
        strbuf_puts(out, "<tr><td class=places>");
        put_place(out, report, &pairs[i].place);
        strbuf_puts(out, "</td><td class=places>");
        put_place(out, of, &pairs[i].of);
        if (exact)
            strbuf_puts(out, "</td><td class=n>the same</td></tr>\n");
        else
            strbuf_printf(out, "</td><td class=n>%.2f</td></tr>\n", pairs[i].similarity);
    }
}

/* ---- the drawing ---- */

static void put_bar_label(struct strbuf *out, double x, int32_t length)
{
    strbuf_printf(out, "<text x=\"%.1f\" y=\"%d\" text-anchor=middle>", x, CHART_HEIGHT - CHART_BOTTOM + 16);
    length_histogram_number(out, length);
    strbuf_puts(out, "</text>\n");
}

static void put_histogram(struct strbuf *out, const struct length_histogram *h, const char *title,
                          const char *class)
{
    struct histogram_bar bars[HISTOGRAM_BARS];
    int32_t n = length_histogram_bars(h, bars);
    int64_t most = 1;
    if (n == 0) return;
    for (int32_t i = 0; i < n; i++)
        if (bars[i].count > most) most = bars[i].count;
    double step = (double)CHART_WIDTH / n, room = CHART_HEIGHT - CHART_TOP - CHART_BOTTOM;
    strbuf_printf(out,
                  "<h3>%s</h3>\n<div class=\"card chart\"><svg viewBox=\"0 0 %d %d\" role=img class=\"%s\">",
                  title, CHART_WIDTH, CHART_HEIGHT, class);
    strbuf_printf(out, "<title>%s</title>\n<line x1=0 x2=%d y1=%d y2=%d />\n", title, CHART_WIDTH,
                  CHART_HEIGHT - CHART_BOTTOM, CHART_HEIGHT - CHART_BOTTOM);
    for (int32_t i = 0; i < n; i++) {
        double height = room * (double)bars[i].count / (double)most, x = i * step;
        if (bars[i].count > 0 && height < 1.5) height = 1.5;
        double top = CHART_HEIGHT - CHART_BOTTOM - height;
        strbuf_puts(out, "<g><title>");
        length_histogram_number(out, bars[i].first);
        strbuf_puts(out, " to ");
        length_histogram_number(out, bars[i].last);
        strbuf_puts(out, ": ");
        length_histogram_number(out, bars[i].count);
        strbuf_printf(
            out, " rows</title><rect class=bar x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" rx=2 />",
            x + step * 0.07, top, step * 0.86, height);
        if (bars[i].count > 0) {
            double part = share(bars[i].count, h->n);
            strbuf_printf(out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=middle>", x + step / 2, top - 5);
            if (part < 0.05)
                strbuf_puts(out, "&lt;0.1%</text>");
            else
                strbuf_printf(out, "%.*f%%</text>", part < 9.95, part);
        }
        strbuf_puts(out, "</g>\n");
        put_bar_label(out, x + step / 2, bars[i].first);
    }
    strbuf_printf(out, "<text x=\"%d\" y=\"%d\" text-anchor=middle>tokens, from … on</text>\n</svg></div>\n",
                  CHART_WIDTH / 2, CHART_HEIGHT - 4);
    static const double quantile[] = {0.5, 0.9, 0.99};
    static const char *const word[] = {"Median ", "; 90 % have at most ", ", 99 % at most "};
    strbuf_puts(out, "<p class=soft>");
    for (int i = 0; i < 3; i++) {
        strbuf_puts(out, word[i]);
        length_histogram_number(out, length_histogram_quantile(h, quantile[i]));
    }
    strbuf_puts(out, "; the longest has ");
    length_histogram_number(out, h->longest);
    strbuf_puts(out, ".</p>\n");
}

/* ---- the tables ---- */

static void put_sources(struct strbuf *out, const struct data_report *report)
{
    strbuf_puts(out,
                "<h2>Sources</h2>\n<div class=card><table><tr><th>Source<th class=n>Rows read<th class=n>Kept"
                "<th class=n>Tokens<th>Share of tokens<th class=n>Supervised</tr>\n");
    for (int32_t i = 0; i < report->n_groups; i++) {
        const struct report_group *group = &report->group[i];
        double part = share(group->tokens, report->tokens);
        strbuf_puts(out, "<tr><td class=what>");
        put_text(out, group->name);
        strbuf_puts(out, "</td>");
        put_number_cell(out, group->rows_read);
        put_number_cell(out, group->rows_kept);
        put_number_cell(out, group->tokens);
        strbuf_printf(out, "<td><div class=track title=\"%.1f %%\"><i style=\"width:%.1f%%\"></i></div></td>",
                      part, part);
        strbuf_printf(out, "<td class=n>%.1f&thinsp;%%</td></tr>\n",
                      share(group->supervised_tokens, group->tokens));
    }
    strbuf_puts(out, "</table></div>\n");
}

static void put_problems(struct strbuf *out, const struct data_report *report)
{
    bool any = false;
    strbuf_puts(out, "<h2>Rows dropped or changed</h2>\n");
    for (int i = 0; i < ROW_PROBLEMS; i++) {
        const struct report_places *places = &report->problem[i];
        if (places->rows == 0) continue;
        if (!any) strbuf_puts(out, "<div class=card><table><tr><th>Why<th class=n>Rows<th>First ones</tr>\n");
        any = true;
        strbuf_puts(out, "<tr><td class=what>");
        put_text(out, row_problem_name((enum row_problem)i));
        strbuf_puts(out, "</td>");
        put_number_cell(out, places->rows);
        put_places(out, report, places->first, places->n, places->rows);
        strbuf_puts(out, "</tr>\n");
    }
    strbuf_puts(out, any ? "</table></div>\n" : "<p class=good>None: every row is kept as it is.</p>\n");
}

static void put_findings(struct strbuf *out, const struct data_report *report)
{
    bool any = false;
    for (int i = 0; i < FINDINGS; i++) {
        const struct report_places *places = &report->finding[i];
        if (places->rows == 0) continue;
        if (!any)
            strbuf_puts(out, "<h2>Worth a look</h2>\n<div class=card><table><tr><th>What<th class=n>Found"
                             "<th class=n>Rows<th>First ones</tr>\n");
        any = true;
        strbuf_printf(out, "<tr><td class=what>%s</td>", finding_names((enum finding_kind)i));
        put_number_cell(out, report->finding_count[i]);
        put_number_cell(out, places->rows);
        put_places(out, report, places->first, places->n, places->rows);
        strbuf_puts(out, "</tr>\n");
    }
    if (!any) return;
    strbuf_puts(out, "</table></div>\n");
    if (report->rows_masked == 0) return;
    strbuf_puts(out, "<p class=soft>");
    length_histogram_number(out, report->rows_masked);
    strbuf_puts(out, " rows are kept with placeholders such as [PHONE] in place of personal data.</p>\n");
}

static void put_words(struct strbuf *out, const struct data_report *report)
{
    if (report->n_words == 0) return;
    const struct report_word **sorted = data_report_words(report);
    strbuf_puts(out,
                "<h2>Listed words</h2>\n<div class=card><table><tr><th>Word<th class=n>Found<th class=n>Rows"
                "<th>First ones</tr>\n");
    for (size_t i = 0; sorted && i < report->n_words && i < MOST_WORDS; i++) {
        strbuf_puts(out, "<tr><td class=what>");
        put_text(out, sorted[i]->text);
        strbuf_puts(out, "</td>");
        put_number_cell(out, sorted[i]->count);
        put_number_cell(out, sorted[i]->rows);
        put_places(out, report, sorted[i]->first, sorted[i]->n, sorted[i]->rows);
        strbuf_puts(out, "</tr>\n");
    }
    strbuf_puts(out, "</table></div>\n");
    if (report->n_words > MOST_WORDS)
        strbuf_printf(out, "<p class=soft>The %d most frequent of %zu words.</p>\n", MOST_WORDS,
                      report->n_words);
    free(sorted);
}

static void put_duplicates(struct strbuf *out, const struct data_report *report)
{
    const struct duplicates *d = &report->duplicates;
    if (!report->duplicates_known) return;
    strbuf_puts(out, "<h2>Duplicates</h2>\n");
    if (d->exact_rows + d->near_rows == 0) {
        strbuf_puts(out, "<p class=good>No two rows say the same.</p>\n");
        return;
    }
    strbuf_puts(out, "<div class=tiles>\n");
    put_tile(out, d->exact_rows, "rows repeat an earlier one exactly");
    put_tile(out, d->near_rows, "more repeat one nearly");
    put_share_tile(out, d->exact_rows + d->near_rows, d->rows, "of all rows");
    strbuf_puts(
        out, "</div>\n<div class=\"card scroll\"><table><tr><th>Row<th>repeats<th class=n>Similarity</tr>\n");
    put_pairs(out, report, report, report->exact_pair, d->n_exact, d->n_exact);
    put_pairs(out, report, report, report->near_pair, d->n_near, 0);
    strbuf_puts(
        out,
        "</table></div>\n<p class=soft>The first ones of each kind. Similarity is the estimated share of "
        "common three-word (for Chinese three-character) pieces; pairs from 0.80 on are found.</p>\n");
}

static void put_overlap(struct strbuf *out, const struct data_report *eval, const struct data_report *train)
{
    const struct overlap *o = &eval->overlap;
    if (!eval->overlap_known) return;
    strbuf_puts(out, "<h2>Overlap with the training rows</h2>\n");
    if (o->exact_rows + o->near_rows == 0) {
        strbuf_puts(out, "<p class=good>No evaluation row is in the training data.</p>\n");
        return;
    }
    strbuf_puts(out, "<p class=note>");
    length_histogram_number(out, o->exact_rows);
    strbuf_puts(out, " evaluation rows are in the training data exactly and ");
    length_histogram_number(out, o->near_rows);
    strbuf_printf(out,
                  " nearly (%.1f&thinsp;%% together): what is measured on them is memory, not skill.</p>\n"
                  "<div class=\"card scroll\"><table><tr><th>Evaluation row<th>Training row<th "
                  "class=n>Similarity</tr>\n",
                  share(o->exact_rows + o->near_rows, o->rows));
    put_pairs(out, eval, train, eval->overlap_pair, o->n_pairs,
              o->exact_rows < o->n_pairs ? (int32_t)o->exact_rows : o->n_pairs);
    strbuf_puts(out, "</table></div>\n");
}

/* ---- the page ---- */

static void put_part(struct strbuf *out, const struct data_report *report)
{
    strbuf_puts(out, "<div class=tiles>\n");
    put_tile(out, report->rows_read, "rows read");
    put_tile(out, report->rows_kept, "rows kept");
    put_tile(out, report->rows_dropped, "rows dropped");
    put_tile(out, report->tokens, "tokens");
    put_share_tile(out, report->supervised_tokens, report->tokens, "of the tokens are supervised");
    strbuf_puts(out, "</div>\n");
    put_sources(out, report);
    if (report->row_tokens.n > 0) strbuf_puts(out, "<h2>Lengths</h2>\n");
    put_histogram(out, &report->row_tokens, "Tokens of a row", "first");
    put_histogram(out, &report->answer_tokens, "Supervised tokens of a row", "second");
    put_problems(out, report);
    put_findings(out, report);
    put_words(out, report);
    put_duplicates(out, report);
}

static void put_head(struct strbuf *out, const char *title, const struct data_report *train,
                     const struct report_html_options *options)
{
    strbuf_puts(out, "<!doctype html>\n<html lang=en><head><meta charset=utf-8>\n"
                     "<meta name=viewport content=\"width=device-width,initial-scale=1\">\n<title>");
    put_text(out, title);
    strbuf_printf(out, "</title>\n<style>\n%s</style></head>\n<body><main>\n<h1>", style);
    put_text(out, title);
    strbuf_printf(out, "</h1>\n<p class=soft>%d file%s", train->n_files, train->n_files == 1 ? "" : "s");
    if (options->model) {
        strbuf_puts(out, " · tokens of ");
        put_text(out, options->model);
    }
    if (options->template_name) {
        strbuf_puts(out, " · template ");
        put_text(out, options->template_name);
    }
    if (options->cutoff_len > 0) strbuf_printf(out, " · rows up to %d tokens", options->cutoff_len);
    strbuf_puts(out, "</p>\n");
}

void report_html(struct strbuf *out, const struct data_report *train, const struct data_report *eval,
                 const struct report_html_options *options)
{
    put_head(out, options->title ? options->title : "Data report", train, options);
    put_part(out, train);
    if (eval) {
        strbuf_puts(out, "<section class=part>\n<h1>Evaluation rows</h1>\n");
        put_overlap(out, eval, train);
        put_part(out, eval);
        strbuf_puts(out, "</section>\n");
    }
    strbuf_printf(
        out,
        "<footer>Written by lorad; the same figures are in report.json.</footer>\n</main></body></html>\n");
}
