"""The page of a token strip: texts stay texts, the picture needs no script; then in Chromium."""

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from support.browser import FLAGS
from support.strip import SMALL, SVG, data_of, film

import hooked_av as av
from hooked_av.plots.heat import N_SHADES, shade_colour

pytestmark = [
    pytest.mark.filterwarnings("ignore:the frames sampled are:hooked_av.HookedAVWarning"),
    pytest.mark.usefixtures("one_thread"),
]
EVIL = "<script>alert('1')</script> & </svg> ]]> {uid} \"x\""


@pytest.fixture(scope="module")
def model():
    return av.random_omni(n_layers=2)


@pytest.fixture(scope="module")
def film_inputs(model):
    return model.prepare(film(), question="What moves?", sampling=SMALL)


# --- the page --------------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    def __init__(self, source):
        super().__init__()
        self.tags, self.addresses, self.text = [], [], ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data):
        self.text += data


def test_texts_from_outside_stay_texts(model, tmp_path):
    inputs = model.prepare(film(1.0), question=EVIL, options=[EVIL, "b"], sampling=SMALL)
    texts = [EVIL] * inputs.n_pos
    strip = av.token_strip(inputs, heat=np.ones((2, inputs.n_pos)), heat_label=EVIL, str_tokens=texts)
    page = Tags(strip.save(tmp_path / "strip.html").read_text(encoding="utf-8"))
    assert page.tags.count("script") == 2  # ours: the data, and what reads it
    assert page.tags.count("svg") == 1
    assert EVIL in page.text
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    assert data_of(strip)["heat"]["label"] == EVIL
    root = ElementTree.fromstring(strip.svg)
    assert any(EVIL[:20] in (node.text or "") for node in root.iter(f"{SVG}text"))
    assert EVIL in root.find(f"{SVG}desc").text
    assert "alert" not in {node.tag for node in root.iter()}


def test_the_picture_is_described_and_needs_no_script(film_inputs, tmp_path):
    strip = av.token_strip(film_inputs, heat=np.ones((2, film_inputs.n_pos)), heat_label="attention")
    root = ElementTree.parse(strip.save(tmp_path / "strip.svg")).getroot()
    ids = {node.get("id"): node for node in root.iter() if node.get("id")}
    title, desc = (ids[name].text for name in root.get("aria-labelledby").split())
    assert title.startswith(f"{film_inputs.n_pos} tokens: ")
    assert all(word in desc for word in ("audio tokens", "video tokens", "Heat: attention", "layer 0 of 0–1"))
    assert f"{SVG}script" not in {node.tag for node in root.iter()}
    used = set(re.findall(r"url\(#(.*?)\)", strip.svg))
    assert used
    assert used <= set(ids)
    assert "{uid}" not in strip.html


def test_the_same_strip_has_the_same_bytes_and_others_have_other_ids(film_inputs):
    heat = np.random.default_rng(0).normal(size=(3, film_inputs.n_pos))
    first, second = (av.token_strip(film_inputs, heat=heat) for _ in range(2))
    assert first.html == second.html
    ids = [set(re.findall(r'id="(hav\w+)', strip.svg)) for strip in (first, av.token_strip(film_inputs, heat=-heat))]
    assert not ids[0] & ids[1]


def test_a_notebook_shows_inputs_as_their_strip(film_inputs):
    assert film_inputs._repr_html_() == av.token_strip(film_inputs).html


# --- in a browser ----------------------------------------------------------------------------------------------------

WATCH = """<script>
window.violations = [];
document.addEventListener("securitypolicyviolation", event => violations.push(event.blockedURI));
</script>"""
DRIVE = """<script>
const strip = document.querySelector(".hooked-av-strip"), svg = strip.querySelector("svg");
const fills = name => [...svg.querySelectorAll(`g[data-lane="${name}"] path`)].map(
  path => [path.getAttribute("fill"), path.getAttribute("d")]);
const height = svg.getBoundingClientRect().height;
const result = { ready: "ready" in strip.dataset, before: fills("audio tokens"), height };
const slider = strip.querySelector("input");
result.shown = !slider.closest(".hav-controls").hidden && slider.value;
const point = (lane, share) => {
  const box = svg.querySelector(`g[data-lane="${lane}"]`).getBoundingClientRect();
  svg.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + share * box.width, clientY: box.top + 3 }));
  return strip.querySelector(".hav-tip").hidden ? "" : strip.querySelector(".hav-tip").textContent;
};
result.audio = point("audio tokens", 0.001);
result.marked = svg.querySelectorAll("[data-marks] rect").length;
result.video = point("video tokens", 0.001);
result.text = point("prompt in order", 0.001);
slider.value = 1;
slider.dispatchEvent(new Event("input"));
result.after = fills("audio tokens");
result.words = svg.querySelector("[data-layer]").textContent;
result.hot = point("audio tokens", 0.001);
slider.value = 0;
slider.dispatchEvent(new Event("input"));
result.back = fills("audio tokens");
svg.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
result.next = strip.querySelector(".hav-tip").textContent;
svg.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
result.hidden = strip.querySelector(".hav-tip").hidden;
setTimeout(() => {
  result.violations = window.violations;
  const names = performance.getEntriesByType("resource").map(entry => entry.name);
  result.requests = names.filter(name => !name.startsWith("data:"));
  const found = document.body.appendChild(document.createElement("pre"));
  found.id = "result";
  found.textContent = btoa(unescape(encodeURIComponent(JSON.stringify(result))));
}, 500);
</script>"""


@pytest.fixture(scope="module")
def chromium():
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("no chromium on PATH")
    return found


def browse(chromium, path, *more):
    flags = [*FLAGS, "--window-size=1100,900", "--virtual-time-budget=4000",
             f"--user-data-dir={path.parent / 'profile'}"]  # fmt: skip
    command = [chromium, *flags, *more, path.as_uri()]
    return subprocess.run(command, check=True, capture_output=True, timeout=180, text=True).stdout


def driven(chromium, path, page):
    path.write_text(page.replace("<head>", f"<head>{WATCH}", 1).replace("</body>", f"{DRIVE}</body>"), "utf-8")
    found = re.search(r'<pre id="result">(.*?)</pre>', browse(chromium, path, "--dump-dom"))
    return json.loads(base64.b64decode(found[1]))


@pytest.mark.browser
def test_slider_and_pointer_work_in_a_browser_without_a_network(chromium, film_inputs, tmp_path):
    heat = np.zeros((2, film_inputs.n_pos))
    heat[0, film_inputs.spans["audio"].positions] = 1.25
    heat[1, film_inputs.spans["audio"].positions] = -0.5
    strip = av.token_strip(film_inputs, heat=heat, heat_label="drop <b>", layer=0)
    path = strip.save(tmp_path / "strip.html")
    found = driven(chromium, tmp_path / "driven.html", path.read_text(encoding="utf-8"))
    assert found["ready"]
    assert found["shown"] == "0"
    assert found["height"] > 300
    audio, video = (int(film_inputs.spans[name].positions[0]) for name in ("audio", "video"))
    ids = film_inputs.input_ids[0].tolist()
    start, stop = film_inputs.spans.places.seconds[audio]
    assert found["audio"].split("\n") == [f"position {audio}", f"id {ids[audio]}", "audio", f"{start:.2f}–{stop:.2f} s",
                                          "drop <b>, layer 0: 1.25"]  # fmt: skip
    assert f"position {video}\nid {ids[video]}\nvideo\n" in found["video"]
    assert "cell: group 0, row 0, column 0" in found["video"]
    assert found["text"].startswith("position 0: “<|im_start|>”\nid 151644\nsystem")
    assert found["marked"] == 3  # the token in its lane, in the prompt to scale, and its run in order
    # what the script paints is what the picture showed
    assert found["before"] == found["back"]
    assert [fill for fill, _ in found["before"]] == [shade_colour(N_SHADES)]
    assert [fill.rpartition("-")[2] for fill, _ in found["after"]] == ["n4)"]
    assert found["hot"].endswith("drop <b>, layer 1: -0.5")
    assert found["words"] == "; layer 1 of 0–1"
    assert found["next"].startswith(f"position {audio + 1}\n")
    assert found["hidden"]
    assert found["violations"] == found["requests"] == []


@pytest.mark.browser
def test_a_request_would_be_seen(chromium, film_inputs, tmp_path):
    strip = av.token_strip(film_inputs, heat=np.ones((2, film_inputs.n_pos)))
    page = strip.save(tmp_path / "strip.html").read_text(encoding="utf-8")
    found = driven(chromium, tmp_path / "driven.html", page.replace("<body>", '<body><img src="http://example.org/x">'))
    assert found["violations"] == ["http://example.org/x"]
