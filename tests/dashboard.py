"""Prefect's dashboard in a headless Chromium, as a person uses it."""

import re
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from playwright.sync_api import Page, expect, sync_playwright

SECONDS = 600  # for one step on a busy machine
expect.set_options(timeout=SECONDS * 1000)


class Dashboard:
    """A browser at the server of an API address; skips the test where there is no Chromium."""

    def __init__(self, api: str) -> None:
        self._root = api.removesuffix("/api")
        found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if found is None:
            pytest.skip("no Chromium on this machine: `apt-get install chromium`")
        self._browser_path = found

    def __enter__(self) -> Self:
        self._playwright = sync_playwright().start()
        self._browser = self._playwright.chromium.launch(executable_path=self._browser_path, args=["--no-sandbox"])
        self.page: Page = self._browser.new_page(viewport={"width": 1400, "height": 1800})
        self.page.set_default_timeout(SECONDS * 1000)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            print(f"the page at {self.page.url} said:", self.page.inner_text("body"), sep="\n")
        self._browser.close()
        self._playwright.stop()

    def form(self, flow: str) -> None:
        """The form of a run with parameters, of the deployment of a flow."""
        self.page.goto(f"{self._root}/v2/deployments")
        row = self.page.get_by_role("row").filter(has=self.page.get_by_text(flow, exact=True))
        row.get_by_role("link").first.click()
        self.page.get_by_role("button", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Custom run").click()
        expect(self.page.get_by_role("heading", name="Parameters")).to_be_visible()

    def submit(self) -> None:
        self.page.get_by_role("button", name="Submit").click()

    def submit_and_open(self) -> str:
        """The page of the run that the form starts; gives its id, which the form shows for four seconds only."""
        with self.page.expect_response(re.compile("/create_flow_run$")) as answer:
            self.submit()
        assert answer.value.ok, f"{answer.value.status} {answer.value.text()}"
        run: str = answer.value.json()["id"]
        self.page.goto(f"{self._root}/v2/runs/flow-run/{run}")
        return run

    def cancel(self, run: str) -> None:
        """By the menu of a run's page."""
        self.page.goto(f"{self._root}/v2/runs/flow-run/{run}")
        self.page.get_by_role("button", name="Open menu").click()
        self.page.get_by_role("menuitem", name="Cancel").click()
        self.page.get_by_role("button", name="Cancel Flow Run").click()

    def wait_for_state(self, name: str) -> None:
        """Until the page of a run says that it ended so, without a reload."""
        expect(self.page.get_by_text(name, exact=True).first).to_be_visible()

    def shows(self, tab: str, *words: str) -> None:
        """Waits until a tab of a run's page has all of these words."""
        self.page.get_by_role("tab", name=tab).click()
        for text in words:
            expect(self.page.get_by_role("tabpanel")).to_contain_text(text)

    def follow(self, link: str) -> str:
        """What the page says that a link of the run's artifacts leads to."""
        self.page.get_by_role("tab", name="Artifacts").click()
        address = self.page.get_by_role("tabpanel").get_by_role("link", name=link, exact=True).get_attribute("href")
        assert address
        there = self._browser.new_page()
        there.goto(address)
        said: str = there.inner_text("body")
        there.close()
        return said

    def picture(self, path: Path) -> None:
        """For whoever writes a test."""
        self.page.screenshot(path=path, full_page=True)
