"""annex for Conan 2, from the tree this recipe lies in: conan create packaging/conan

What it asks of CMake is what tests/recipes_test does by itself, so that the recipe is checked where there is no Conan.
"""
import os

from conan import ConanFile
from conan.errors import ConanInvalidConfiguration
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeDeps, CMakeToolchain, cmake_layout
from conan.tools.files import copy


class Annex(ConanFile):
    name = "annex"
    version = "1.0.0"
    description = "Named heaps over memory you bring, shared by any process"
    license = "BSD-3-Clause"
    package_type = "library"
    settings = "os", "arch", "compiler", "build_type"
    options = {"shared": [True, False], "tools": [True, False], "dpdk": [True, False], "devices": [True, False]}
    default_options = {"shared": True, "tools": False, "dpdk": False, "devices": False}

    def export_sources(self):
        root = os.path.join(self.recipe_folder, "..", "..")
        for pattern in ("CMakeLists.txt", "LICENSE", "README.md", "CHANGELOG.md", "cmake/*", "include/*", "src/*", "tools/*", "share/*"):
            copy(self, pattern, root, self.export_sources_folder)

    def validate(self):
        if self.settings.os != "Linux" or self.settings.arch != "x86_64":
            raise ConanInvalidConfiguration("annex needs Linux on x86-64")
        check_min_cppstd(self, 23)

    def requirements(self):
        self.requires("fmt/[>=9 <12]")
        if self.options.tools:
            self.requires("cli11/[>=2.3 <3]")
            self.requires("nlohmann_json/[>=3.11 <4]")
            self.requires("libpcap/[>=1.10 <2]")

    def layout(self):
        cmake_layout(self)

    def generate(self):
        CMakeDeps(self).generate()
        toolchain = CMakeToolchain(self)
        toolchain.cache_variables["ANNEX_TESTS"] = False
        toolchain.cache_variables["ANNEX_WARNINGS_ARE_ERRORS"] = False
        for name in ("tools", "dpdk", "devices"):
            toolchain.cache_variables["ANNEX_" + name.upper()] = bool(self.options.get_safe(name))
        toolchain.generate()

    def build(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def package(self):
        CMake(self).install()
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))

    def package_info(self):
        self.cpp_info.set_property("cmake_file_name", "annex")
        self.cpp_info.set_property("pkg_config_name", "annex")
        self.cpp_info.set_property("cmake_target_name", "annex::annex" if self.options.shared else "annex::annex_static")
        self.cpp_info.libs = ["annex" if self.options.shared else ":libannex.a"]
        self.cpp_info.system_libs = ["pthread", "m"]
