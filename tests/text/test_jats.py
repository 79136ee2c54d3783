"""Articles in JATS XML give the sentences that their authors wrote, and nothing else."""

from __future__ import annotations

import pytest

from quiltwork.core.errors import BadInputError
from quiltwork.text.jats import article_sentences

ARTICLE = """<?xml version="1.0"?>
<!DOCTYPE article PUBLIC "-//NLM//DTD JATS" "JATS.dtd">
<article xmlns:xlink="http://www.w3.org/1999/xlink">
<front>
 <journal-meta><journal-title>Journal of Things</journal-title></journal-meta>
 <article-meta>
  <title-group><article-title>Loss of <italic>KRAS</italic> in mice</article-title></title-group>
  <contrib-group><contrib><name><surname>Miller</surname></name></contrib></contrib-group>
  <abstract><title>Background</title><p>Little is known. We asked.</p><object-id>10.1/x.001</object-id></abstract>
 </article-meta>
</front>
<body>
 <sec><label>1</label><title>Results</title>
  <p>Cells grew<xref ref-type="bibr" rid="b1">1</xref><sup>,</sup><xref ref-type="bibr" rid="b2">2</xref>.
     They died (<xref ref-type="bibr">Smith, 2010</xref>; <xref ref-type="bibr">Wu, 2011</xref>)
     as <xref ref-type="fig" rid="f1">Figure 1</xref> shows.
     <fig id="f1"><caption><p>A caption of it.</p></caption></fig>
     With 5 \u00b5g<inline-formula><tex-math>x^2</tex-math></inline-formula> all died.</p>
  <table-wrap><table><tr><td>17</td></tr></table></table-wrap>
  <p>Seen in [<xref ref-type="bibr">3</xref>-<xref ref-type="bibr">5</xref>].</p>
 </sec>
</body>
<back><ack><p>We thank all.</p></ack>
 <ref-list><ref><mixed-citation>Smith J. A paper.</mixed-citation></ref></ref-list></back>
<sub-article><front-stub/><body><p>Decision letter.</p></body></sub-article>
</article>"""


def sentences(text):
    return article_sentences(text.encode() if isinstance(text, str) else text, where="a.xml")


def test_title_abstract_and_body_are_read_without_tables_figures_formulas_references_and_citations():
    assert sentences(ARTICLE) == (
        "Loss of KRAS in mice",
        "Little is known.",
        "We asked.",
        "Cells grew.",
        "They died as Figure 1 shows.",
        "With 5 \u03bcg all died.",
        "Seen in.",
    )


def test_an_article_may_be_wrapped_and_have_a_namespace():
    wrapped = "<records><article xmlns='https://jats.nlm.nih.gov/'><body><p>Cells grew.</p></body></article></records>"
    assert sentences(wrapped) == ("Cells grew.",)


def refused(text):
    with pytest.raises(BadInputError) as caught:
        sentences(text)
    assert str(caught.value).startswith("a.xml: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_bomb_of_entities_is_refused_before_it_grows():
    levels = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10 if i else "boom"}">' for i in range(12))
    bomb = f"<!DOCTYPE article [{levels}]><article><body><p>&e11;</p></body></article>"
    assert "declares entities" in refused(bomb)


def test_a_file_of_the_machine_is_not_read_by_an_entity():
    spy = '<!DOCTYPE article [<!ENTITY f SYSTEM "file:///etc/passwd">]><article><body><p>&f;</p></body></article>'
    assert "declares entities" in refused(spy)


@pytest.mark.parametrize(
    "text", ["", "plain text", "<article><body>", "<html><p>x</p></html>", b"\xff\xfe\x00", b"<a>\xff</a>"]
)
def test_what_is_no_jats_article_is_refused(text):
    refused(text)


def test_deep_nesting_is_read():
    deep = "<sec>" * 3000 + "<p>" + "<italic>" * 3000 + "Cells." + "</italic>" * 3000 + "</p>" + "</sec>" * 3000
    assert sentences(f"<article><body>{deep}</body></article>") == ("Cells.",)
