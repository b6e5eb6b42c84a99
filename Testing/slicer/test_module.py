"""The module as Slicer sees it, with and without a main window: what its generic tests ask, and the sample data."""

import unittest

import slicer
from in_slicer import MODULE


class ModuleTest(unittest.TestCase):
    def setUp(self):
        self.module = getattr(slicer.modules, MODULE.lower(), None)

    def test_it_is_loaded_under_its_name(self):
        self.assertIsNotNone(self.module)
        self.assertEqual(self.module.name, MODULE)

    def test_it_says_what_it_is(self):
        for text in (self.module.categories, self.module.contributors):
            self.assertTrue(all(text) and len(text))
        for text in (self.module.title, self.module.helpText, self.module.acknowledgementText):
            self.assertTrue(text)
        self.assertIn("research use only", self.module.helpText)

    def test_it_has_one_panel(self):
        self.assertIsNotNone(self.module.widgetRepresentation())
        self.assertEqual(self.module.widgetRepresentation(), self.module.widgetRepresentation())

    def test_it_can_be_given_another_scene(self):
        scene = slicer.vtkMRMLScene()
        self.module.setMRMLScene(scene)
        self.assertEqual(self.module.mrmlScene(), scene)
        self.module.setMRMLScene(slicer.mrmlScene)
        self.assertEqual(self.module.mrmlScene(), slicer.mrmlScene)

    def test_its_icon_is_found(self):
        self.assertFalse(self.module.icon.isNull())

    def test_the_panel_brings_no_torch_into_slicer(self):
        import sys

        self.module.widgetRepresentation()
        self.assertNotIn("torch", sys.modules)
        self.assertNotIn("onnxruntime", sys.modules)
